//! What the end-to-end tests are made of: a real mosquitto, the built gateway
//! as a child process, publishers and receivers that count, and hostile
//! scripts. The destinations are the strict stand-ins of the gateway's demo.
//!
//! Nothing here waits for a fixed time: each wait names a condition, and panics
//! with what it saw last when the condition does not hold in time.

pub mod broker;
pub mod certificates;
pub mod fleet;
pub mod gateway;
pub mod http;
pub mod oracle;
pub mod ports;
pub mod proxy;
pub mod publisher;
pub mod receiver;
pub mod scripts;
pub mod steady;
pub mod subscriber;
pub mod traffic;

use std::time::Duration;

/// How long a test waits for what must happen. Generous, because it only costs
/// time where something is broken: several tests share two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// How often a condition without a notification is checked.
pub const LOOK: Duration = Duration::from_millis(25);
