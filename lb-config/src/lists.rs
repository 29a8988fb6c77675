//! Lists that services and routes have alike: listen addresses, former names, backends.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr as _;

use super::error::{Located, Place, Problems};
use super::reader::Value;
use super::schema::fields::Required;
use super::schema::kinds::{
    Code, List, Made, Maybe, NonEmpty, OneOrMore, Placed, Short, Text, one_of, sub, text, whole,
};
use super::schema::{Kind, Shape, Show, section};
use super::value::{self, BadValue};
use super::{BackendAddress, Path};

/// Texts that are checked by `value`.
pub(super) type Texts<T> = Text<T, BadValue>;

/// A name of a service or a route.
pub(super) const NAME: Texts<String> =
    text("name of 1 to 63 characters", "\"web\"", value::service_name);
const FORMER_NAME: Placed<Texts<String>> = Placed(Text {
    example: "\"old-name\"",
    ..NAME
});
const LISTEN_ADDRESS: Placed<Texts<SocketAddr>> = Placed(text(
    "IP address and port",
    "\"0.0.0.0:80\"",
    value::listen_address,
));
const BACKEND_ADDRESS: Placed<AddressOrPort> = Placed(AddressOrPort);
const ADDRESS: Texts<BackendAddress> = text(
    "IP address and port, or unix socket",
    "\"127.0.0.1:5000\"",
    BackendAddress::from_str,
);
const WEIGHT: Code<u16, BadValue> = Code {
    example: "1",
    range: 1..=65_535,
    parse: value::weight,
    print: |weight| (*weight).into(),
};

/// A text, or a port of 127.0.0.1 as a number.
#[derive(Clone, Copy)]
struct AddressOrPort;

impl Kind for AddressOrPort {
    type Value = BackendAddress;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<BackendAddress> {
        if value.is_integer() {
            let port = value.integer_in(1..=u16::MAX, problems)?;
            return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into());
        }
        ADDRESS.read(value, problems)
    }

    fn write(&self, value: &BackendAddress, show: Show) -> Option<toml::Value> {
        ADDRESS.write(value, show)
    }

    fn shape(&self) -> Shape {
        let port = whole(1..=u16::MAX, "");
        Shape::Either(vec![ADDRESS.shape(), port.shape()])
    }
}

section! {
    Reload, "0.1";
    /// A backend.
    pub(super) struct RawBackend {
        /// The address of the application: IP address and port, or for HTTP `unix:` and an absolute path. `5000` and
        /// `"localhost:5000"` are 127.0.0.1:5000.
        pub(super) address: Located<BackendAddress> = nowhere(), Required("\"127.0.0.1:5000\"", BACKEND_ADDRESS);
        /// Its share of new clients, in relation to the weights of the others.
        pub(super) weight: u16 = 1, WEIGHT;
        /// How connections get there. Without it the `path` of the service.
        pub(super) path: Option<Path> = None, Maybe(one_of());
    }
}

impl RawBackend {
    /// The path to it, in a service with the path `usual`.
    pub(super) fn path(&self, usual: Path) -> Path {
        self.path.unwrap_or(usual)
    }
}

/// The stand-in for an address that is missing or not good.
fn nowhere() -> Located<BackendAddress> {
    Located {
        value: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into(),
        place: Place::FILE,
    }
}

/// Addresses to listen on, as in `example`.
pub(super) fn listen(example: &'static str) -> impl Kind<Value = Vec<Located<SocketAddr>>> {
    NonEmpty {
        empty: format!("no address (write listen = {example})"),
        list: List(example, LISTEN_ADDRESS),
    }
}

/// A former name, or several.
pub(super) fn former_names() -> impl Kind<Value = Vec<Located<String>>> {
    OneOrMore(
        List("[\"old-name\", \"older-name\"]", FORMER_NAME),
        FORMER_NAME,
    )
}

/// Backends: tables, or just their addresses.
pub(super) fn backends() -> List<impl Kind<Value = RawBackend>> {
    let item = Short {
        text: Made {
            of: BACKEND_ADDRESS,
            make: |address, _, _| {
                Some(RawBackend {
                    address,
                    ..RawBackend::default()
                })
            },
            back: |backend: &RawBackend| backend.address.clone(),
        },
        // Without an address there is no backend.
        table: Made {
            of: sub("\"127.0.0.1:5000\""),
            make: |backend: RawBackend, _, _| backend.address.place.offset.map(|_| backend),
            back: RawBackend::clone,
        },
        brief: |backend: &RawBackend| (backend.weight, backend.path) == (1, None),
        else_text: true,
    };
    List(
        "[\"127.0.0.1:5000\", { address = \"127.0.0.1:5001\", weight = 2 }]",
        item,
    )
}
