//! The blocks of one worker. Requests hold them by a pointer that counts without an atomic operation.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet};
use lb_common::abi::BackendId;

use super::blocks::{BackendBlock, ServiceBlock};
use super::registry::Registry;

/// A block with its one writer, the thread that this cannot leave.
pub(crate) struct Meter<T>(Rc<Own<T>>);

/// The counters of a service, written by this thread.
pub(crate) type ServiceMeter = Meter<ServiceBlock>;
/// The counters of a backend, written by this thread.
pub(crate) type BackendMeter = Meter<BackendBlock>;

struct Own<T>(Arc<T>);

impl<T> Meter<T> {
    fn new(block: Arc<T>) -> Self {
        Self(Rc::new(Own(block)))
    }
}

impl<T> Clone for Meter<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Deref for Meter<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

/// The meters of a thread.
pub(crate) struct Meters {
    registry: Arc<Registry>,
    services: RefCell<HashMap<String, ServiceMeter>>,
    /// By the indexes of backends.
    backends: RefCell<Vec<Option<BackendMeter>>>,
}

impl Meters {
    /// None yet; those to come are read through `registry`.
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            services: RefCell::new(HashMap::new()),
            backends: RefCell::default(),
        }
    }

    /// The meter of the service called `name`.
    pub(crate) fn service(&self, name: &str) -> ServiceMeter {
        let mut services = self.services.borrow_mut();
        if let Some(meter) = services.get(name) {
            return meter.clone();
        }
        let meter = Meter::new(self.registry.service(name));
        services.insert(name.to_owned(), meter.clone());
        meter
    }

    /// The meter of a backend.
    pub(crate) fn backend(&self, id: BackendId) -> BackendMeter {
        let index = id.index() as usize;
        let mut backends = self.backends.borrow_mut();
        if let Some(Some(meter)) = backends.get(index)
            && meter.id == id
        {
            return meter.clone();
        }
        if backends.len() <= index {
            backends.resize_with(index + 1, || None);
        }
        let meter = Meter::new(self.registry.backend(id));
        backends[index] = Some(meter.clone());
        meter
    }

    /// Forgets all services but these.
    pub(crate) fn keep_only(&self, names: &HashSet<&str>) {
        let mut services = self.services.borrow_mut();
        services.retain(|name, _| names.contains(name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_one_block_for_each_service_and_backend() {
        let registry = Arc::<Registry>::default();
        let meters = Meters::new(Arc::clone(&registry));
        let (first, later) = (BackendId::new(3, 1), BackendId::new(3, 2));
        for _ in 0..2 {
            meters.service("web").sent.add(1);
            meters.backend(first).sent.add(1);
        }
        assert_eq!(registry.of_service("web").sent, 2);
        assert_eq!(registry.of_backend(first).sent, 2);
        meters.backend(later).sent.add(5);
        assert_eq!(registry.of_backend(later).sent, 5);
        assert!(Rc::ptr_eq(
            &meters.backend(later).0,
            &meters.backend(later).0
        ));
    }

    #[test]
    fn service_that_is_added_again_begins_at_nothing() {
        let registry = Arc::<Registry>::default();
        let meters = Meters::new(Arc::clone(&registry));
        meters.service("web").sent.add(1);
        registry.keep_only(&HashSet::default());
        meters.keep_only(&HashSet::default());
        meters.service("web").sent.add(2);
        assert_eq!(registry.of_service("web").sent, 2);
    }
}
