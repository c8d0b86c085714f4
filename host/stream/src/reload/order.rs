//! What an operator tells a running stream about its script, and what it answers.

use bytes::Bytes;
use script::Script;
use tokio::sync::{mpsc, oneshot};

use super::shadow::Comparison;
use super::verdict::Refusal;

/// Gives orders to a running stream. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct ReloadHandle(mpsc::Sender<Order>);

/// The other end of a [`ReloadHandle`].
#[derive(Debug)]
pub struct Orders(pub(super) mpsc::Receiver<Order>);

/// What has been done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Name and version of the script that ran before; none: none did.
    pub before: Option<String>,
    /// Of the one that runs now, or would.
    pub after: String,
    /// Whether it has taken the place of another one.
    pub replaced: bool,
    /// What the new one changes; none where nothing was compared.
    pub comparison: Option<Comparison>,
    /// Why it would not be taken; only where nothing was to be put in place.
    pub refusal: Option<String>,
}

pub(super) type Answer = Result<Reloaded, Refusal>;

#[derive(Debug)]
pub(super) struct Order {
    pub(super) what: What,
    pub(super) answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
pub(super) enum What {
    /// Read the files again and take what is there.
    Reload,
    /// Take what the source has now, also where that is not followed.
    Update,
    /// Go back to that version, or to the one before.
    RollBack(Option<String>),
    /// Compare these bytes, or what the source has, with what runs.
    Compare(Option<Bytes>),
    /// Do as if the files had changed.
    #[cfg(test)]
    Look,
}

/// Orders that wait.
const ORDERS: usize = 8;

// === impl ReloadHandle ===

impl ReloadHandle {
    /// A handle, and what it is the handle of.
    pub fn new() -> (Self, Orders) {
        let (orders, taken) = mpsc::channel(ORDERS);
        (Self(orders), Orders(taken))
    }

    /// Has the files read again, and what is new validated and put in place. What
    /// the binary brings along stays as it was accepted.
    pub async fn reload(&self) -> Answer {
        self.order(What::Reload).await
    }

    /// The same, and of what the binary brings along the version that it brings
    /// now.
    pub async fn update(&self) -> Answer {
        self.order(What::Update).await
    }

    /// Puts an accepted version back in place: the one whose hash begins like
    /// this, or the one before the one that runs.
    pub async fn roll_back(&self, to: Option<String>) -> Answer {
        self.order(What::RollBack(to)).await
    }

    /// Compares these bytes, or what the source has now, with what runs.
    /// Changes nothing.
    pub async fn compare(&self, wasm: Option<Bytes>) -> Answer {
        self.order(What::Compare(wasm)).await
    }

    /// Lets the files be looked at as if they had changed.
    #[cfg(test)]
    pub(crate) async fn look(&self) {
        let _ = self.order(What::Look).await;
    }

    async fn order(&self, what: What) -> Answer {
        let (answer, answered) = oneshot::channel();
        // Either fails when the stream has ended.
        let _ = self.0.send(Order { what, answer }).await;
        answered.await.unwrap_or(Err(Refusal::Stopped))
    }
}

// === impl Reloaded ===

impl Reloaded {
    pub(super) fn alone(after: String) -> Self {
        Self { before: None, after, replaced: false, comparison: None, refusal: None }
    }

    pub(super) fn unchanged(script: &Script) -> Self {
        Self { replaced: false, ..Self::replaced(script, script) }
    }

    pub(super) fn replaced(old: &Script, new: &Script) -> Self {
        Self { before: Some(old.label().to_owned()), replaced: true, ..Self::alone(new.label().to_owned()) }
    }
}

pub(super) fn answer(to: Option<oneshot::Sender<Answer>>, answer: Answer) {
    if let Some(to) = to {
        // Whoever asked may have gone.
        let _ = to.send(answer);
    }
}
