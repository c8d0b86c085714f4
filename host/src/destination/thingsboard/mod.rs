//! The ThingsBoard gateway MQTT API.

mod settings;

pub use settings::ThingsBoardSettings;
