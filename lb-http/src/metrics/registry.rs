//! The blocks of all workers. A worker comes here with each block that it makes, a reader with each scrape.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashSet;
use lb_common::abi::BackendId;

use super::blocks::{BackendBlock, ServiceBlock};
use super::figures::{BackendFigures, ServiceFigures};

/// All blocks.
#[derive(Default)]
pub(crate) struct Registry {
    services: Mutex<HashMap<String, Vec<Arc<ServiceBlock>>>>,
    /// By the indexes of backends; an index belongs to the latest id that had it.
    backends: Mutex<HashMap<u32, Vec<Arc<BackendBlock>>>>,
}

impl Registry {
    /// A new block of a worker for the service called `name`.
    pub(super) fn service(&self, name: &str) -> Arc<ServiceBlock> {
        let block = Arc::<ServiceBlock>::default();
        let mut services = locked(&self.services);
        let blocks = services.entry(name.to_owned()).or_default();
        blocks.push(Arc::clone(&block));
        block
    }

    /// A new block of a worker for a backend.
    pub(super) fn backend(&self, id: BackendId) -> Arc<BackendBlock> {
        let block = Arc::new(BackendBlock::new(id));
        let mut backends = locked(&self.backends);
        let blocks = backends.entry(id.index()).or_default();
        blocks.retain(|other| other.id == id);
        blocks.push(Arc::clone(&block));
        block
    }

    /// Forgets all services but these.
    pub(crate) fn keep_only(&self, names: &HashSet<&str>) {
        locked(&self.services).retain(|name, _| names.contains(name.as_str()));
    }

    /// The figures of the service called `name`.
    pub(crate) fn of_service(&self, name: &str) -> ServiceFigures {
        let mut figures = ServiceFigures::default();
        let services = locked(&self.services);
        let blocks = services.get(name).into_iter().flatten();
        blocks.for_each(|block| figures.add(block));
        figures
    }

    /// The figures of a backend.
    pub(crate) fn of_backend(&self, id: BackendId) -> BackendFigures {
        let mut figures = BackendFigures::default();
        let backends = locked(&self.backends);
        let blocks = backends.get(&id.index()).into_iter().flatten();
        let own = blocks.filter(|block| block.id == id);
        own.for_each(|block| figures.add(block));
        figures
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_all_workers_are_added_up() {
        let registry = Registry::default();
        for bytes in [1, 2] {
            registry.service("web").sent.add(bytes);
            registry.backend(BackendId::new(7, 1)).sent.add(10 * bytes);
        }
        registry.service("other").sent.add(100);
        assert_eq!(registry.of_service("web").sent, 3);
        assert_eq!(registry.of_backend(BackendId::new(7, 1)).sent, 30);
        registry.keep_only(&["other"].into_iter().collect());
        assert_eq!(registry.of_service("web"), ServiceFigures::default());
        assert_eq!(registry.of_service("other").sent, 100);
    }

    #[test]
    fn backend_has_no_count_of_an_earlier_one_at_its_index() {
        let registry = Registry::default();
        let (old, new) = (BackendId::new(7, 1), BackendId::new(7, 2));
        registry.backend(old).sent.add(1);
        assert_eq!(registry.of_backend(new), BackendFigures::default());
        registry.backend(new).sent.add(2);
        assert_eq!(registry.of_backend(new).sent, 2);
        assert_eq!(registry.of_backend(old), BackendFigures::default());
    }
}
