//! The official adapter `wialon-retranslator`: each message becomes one packet
//! of the Wialon Retranslator protocol, version 1.0, or several where it does
//! not fit one. The README has the mapping table.

mod mapping;
mod names;
pub mod packet;

use serde::Deserialize;
use sluicegate_sdk::{Fields, Mapped, Message, Result, Script, Template};

use crate::names::{Rename, Spelling};

/// The stream's `[script.settings]`.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub struct Retranslator {
    /// Unit id of the packets.
    uid: Template,
    /// Fields that may leave the gateway, `ident` and `timestamp` aside; empty: all.
    fields: Fields,
    /// Fields that may not.
    exclude: Fields,
    /// Longest packet in bytes, its size field included.
    max_packet: usize,
    /// How parameter names are spelled.
    names: Spelling,
    /// Names of parameters that are not the field's own.
    rename: Rename,
    /// What becomes of text outside ASCII.
    text: Text,
    /// Fields that raise the alarm bit.
    alarm: Vec<String>,
    /// Fields that may hold the driver's code: the first that is there counts.
    driver: Vec<String>,
    /// Satellites in posinfo where the message does not say.
    missing_satellites: u8,
}

/// The setting `text`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Text {
    /// `?` for each character outside ASCII, as the protocol has only ASCII.
    #[default]
    Replace,
    /// UTF-8 as it is, for receivers known to read it.
    Utf8,
}

/// Room for the header, posinfo and the blocks that precede parameters.
const SMALLEST_PACKET: usize = 256;
/// Far above what any receiver is known to take.
const LARGEST_PACKET: usize = 1 << 20;

impl Default for Retranslator {
    fn default() -> Self {
        Self {
            uid: Template::field("ident"),
            fields: Fields::default(),
            exclude: Fields::default(),
            max_packet: 1024,
            names: Spelling::default(),
            rename: Rename::default(),
            text: Text::default(),
            alarm: vec!["alarm.event".to_owned()],
            driver: vec!["ibutton.code".to_owned()],
            missing_satellites: 0,
        }
    }
}

impl Script for Retranslator {
    fn check(&self) -> Result<(), String> {
        if !(SMALLEST_PACKET..=LARGEST_PACKET).contains(&self.max_packet) {
            let max = self.max_packet;
            return Err(format!(
                "`max_packet` = {max}, expected {SMALLEST_PACKET} to {LARGEST_PACKET} bytes"
            ));
        }
        if i8::try_from(self.missing_satellites).is_err() {
            let satellites = self.missing_satellites;
            return Err(format!("`missing_satellites` = {satellites}, expected 0 to 127"));
        }
        Ok(())
    }

    fn map(&self, message: &Message<'_>) -> Result<Mapped> {
        let packets = self.packets(message)?;
        let deliveries: Vec<_> = packets.into_iter().map(|bytes| message.delivery(bytes)).collect();
        Ok(deliveries.into())
    }
}

sluicegate_sdk::export!(Retranslator);
