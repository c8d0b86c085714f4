//! The receivers of a stream's deliveries: the contract that all kinds keep
//! ([`Destination`], [`Connection`]), the settings of each, and the table that
//! lists them ([`KINDS`]).

#![forbid(unsafe_code)]

pub mod aws_iot;
mod contract;
pub mod file;
pub mod http;
mod kind;
pub mod mqtt;
mod table;
pub mod thingsboard;
pub mod wialon;

pub use contract::{
    Cause, Connection, Delivery, DeliveryId, Destination, Fault, FaultKind, Identity, Reply, Verdict,
};
pub use kind::{DestinationSettings, InFlight, Key, Kind, Lanes, MAX_LANES, StreamFacts};
pub use table::KINDS;
