//! Reloads the certificates, key and password of the bus while it is read: a
//! login under another client id validates them, then the connection is
//! replaced.

use std::path::PathBuf;

use settings_reader::tls;
use watch::credentials::{Refused, Renewable};

use crate::connection::try_login;
use crate::{BusSettings, BusSource};

impl Renewable for BusSettings {
    fn files(&self) -> Vec<PathBuf> {
        Self::files(self)
    }

    fn renewed(&self) -> Result<Option<Self>, Refused> {
        let wrong = |reason: String| Refused { reason, for_good: true };
        let renewed = Self::renewed(self).map_err(|error| wrong(error.to_string()))?;
        // Here, where blocking is allowed.
        if matches!(&renewed.source, BusSource::Mqtt(url) if url.tls) {
            tls::client_config(&renewed.tls).map_err(|error| wrong(error.to_string()))?;
        }
        Ok(Some(renewed))
    }

    async fn prove(&self) -> Result<(), Refused> {
        // The error of a broker that is away differs from a refusal by its text only.
        try_login(self).await.map_err(|reason| Refused { reason, for_good: false })
    }
}
