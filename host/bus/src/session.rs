//! What the broker is known to hold for us: whether there is a session, and
//! which filters it is subscribed to.
//!
//! Only the broker knows for sure, and MQTT has no way to ask. So what was
//! subscribed is written down (`bus-filters.json` in the data folder): a
//! filter that no stream wants any more can be unsubscribed after a restart,
//! and a session that is gone although it should be there is noticed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The session of one client id at one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    client_id: String,
    broker: String,
    /// Filters, as subscribed, that the session may hold; none: no session is
    /// known of.
    filters: Option<BTreeSet<String>>,
}

/// What a CONNACK says, compared with what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// A session was expected and is not there: what the broker had queued in
    /// it is lost.
    pub(super) lost: bool,
    /// Filters that the session may hold and nobody wants.
    pub(super) unwanted: Vec<String>,
}

impl Session {
    /// A session that nothing is known of.
    pub(super) fn unknown(client_id: &str, broker: &str) -> Self {
        Self { client_id: client_id.to_owned(), broker: broker.to_owned(), filters: None }
    }

    /// A CONNACK came; `wanted` are about to be subscribed. From now on the
    /// session is expected, with at most these filters in it.
    pub(super) fn arrive(&mut self, present: bool, wanted: &[String]) -> Arrival {
        let lost = self.filters.is_some() && !present;
        if !present {
            self.filters = None;
        }
        Arrival { lost, unwanted: self.want(wanted) }
    }

    /// From now on `wanted` are wanted, and about to be subscribed. The filters
    /// that the session may hold and nobody wants.
    pub(super) fn want(&mut self, wanted: &[String]) -> Vec<String> {
        let filters = self.filters.get_or_insert_default();
        let unwanted = filters.iter().filter(|filter| !wanted.contains(filter)).cloned().collect();
        filters.extend(wanted.iter().cloned());
        unwanted
    }

    /// The broker has confirmed that a filter is gone.
    pub(super) fn removed(&mut self, filter: &str) {
        if let Some(filters) = &mut self.filters {
            filters.remove(filter);
        }
    }

    /// What was written down about this client id at this broker, if anything.
    pub(super) async fn load(path: &Path, client_id: &str, broker: &str) -> Self {
        let unknown = Self::unknown(client_id, broker);
        let bytes = match tokio::fs::read(path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return unknown,
            Err(error) => {
                tracing::warn!("{}: {error}; filters of an earlier run cannot be removed", path.display());
                return unknown;
            }
        };
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(session) if session.client_id == client_id && session.broker == broker => session,
            Ok(_) => unknown,
            Err(error) => {
                tracing::warn!("{}: {error}; filters of an earlier run cannot be removed", path.display());
                unknown
            }
        }
    }

    /// Writes it down, whole or not at all.
    pub(super) async fn save(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        tokio::fs::write(&beside, bytes).await?;
        tokio::fs::rename(&beside, path).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn texts(filters: &[&str]) -> Vec<String> {
        filters.iter().map(|f| (*f).to_owned()).collect()
    }

    #[test]
    fn the_first_session_is_not_expected() {
        let mut session = Session::unknown("id", "mqtt://h:1883");
        assert_eq!(session.arrive(false, &texts(&["a"])), Arrival { lost: false, unwanted: vec![] });
        assert_eq!(session.arrive(true, &texts(&["a"])), Arrival { lost: false, unwanted: vec![] });
        assert_eq!(session.arrive(false, &texts(&["a"])), Arrival { lost: true, unwanted: vec![] });
    }

    #[test]
    fn a_session_that_nobody_wrote_down_is_taken_as_it_is() {
        let mut session = Session::unknown("id", "mqtt://h:1883");
        assert_eq!(session.arrive(true, &texts(&["a"])), Arrival { lost: false, unwanted: vec![] });
    }

    #[test]
    fn a_filter_stays_unwanted_until_the_broker_confirms() {
        let mut session = Session::unknown("id", "mqtt://h:1883");
        session.arrive(false, &texts(&["a", "b"]));
        assert_eq!(session.arrive(true, &texts(&["b"])).unwanted, ["a"]);
        assert_eq!(session.arrive(true, &texts(&["b"])).unwanted, ["a"]);
        session.removed("a");
        assert_eq!(session.arrive(true, &texts(&["b"])).unwanted, Vec::<String>::new());
    }

    #[test]
    fn what_is_wanted_may_change_within_a_connection() {
        let mut session = Session::unknown("id", "mqtt://h:1883");
        session.arrive(false, &texts(&["a", "b"]));
        assert_eq!(session.want(&texts(&["b", "c"])), ["a"]);
        assert_eq!(session.want(&texts(&["b", "a"])), ["c"], "wanted again before it was removed");
        session.removed("c");
        assert_eq!(session.arrive(true, &texts(&["a"])), Arrival { lost: false, unwanted: texts(&["b"]) });
    }

    #[tokio::test]
    async fn it_survives_a_restart_for_the_same_client_and_broker_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data").join("bus-filters.json");
        assert_eq!(Session::load(&path, "id", "b").await, Session::unknown("id", "b"));
        let mut session = Session::unknown("id", "b");
        session.arrive(false, &texts(&["a"]));
        session.save(&path).await.unwrap();
        assert_eq!(Session::load(&path, "id", "b").await, session);
        assert_eq!(Session::load(&path, "other", "b").await, Session::unknown("other", "b"));
        assert_eq!(Session::load(&path, "id", "c").await, Session::unknown("id", "c"));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Session::load(&path, "id", "b").await, Session::unknown("id", "b"));
    }
}
