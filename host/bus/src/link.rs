//! An open connection as the other tasks of the bus see it.

use std::sync::atomic::{AtomicBool, Ordering};

use journal::Sequence;
use rumqttc::{AsyncClient, ManualAck};
use tokio_util::sync::CancellationToken;

/// Packets read, and requests written, in one go of the event loop.
pub(super) const BATCH: usize = 128;

/// No stream subscribes to this, so unsubscribing changes nothing.
const NEVER_SUBSCRIBED: &str = "sluicegate/never-subscribed";

/// A connection as the rest of the bus sees it: the way back for
/// acknowledgements.
pub(super) struct Link {
    pub(super) client: AsyncClient,
    /// Cancelled when nothing is read any more and no acknowledgement can leave.
    pub(super) over: CancellationToken,
    /// A message was lost on the way to the journal: later ones must not be
    /// acknowledged before it.
    broken: AtomicBool,
    /// What it appends to the journal is in order: one failure ends all.
    pub(super) sequence: Sequence,
    /// Nothing more is taken over: what is not acknowledged is for the next
    /// connection.
    leaving: AtomicBool,
}

impl Link {
    pub(super) fn new(client: AsyncClient) -> Self {
        Self {
            client,
            over: CancellationToken::new(),
            broken: AtomicBool::new(false),
            sequence: Sequence::default(),
            leaving: AtomicBool::new(false),
        }
    }

    /// Ends the connection because its acknowledgements cannot go on.
    pub(super) fn break_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
        // An error means that it is over already.
        let _ = self.client.try_disconnect_now();
    }

    /// Takes nothing more over; acknowledgements still go out.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Waits until the broker has read every acknowledgement that was queued:
    /// it answers in order. Who closes while the other side sends may reset the
    /// connection, and what was not read by then is lost.
    pub(super) async fn until_acknowledged(&self) {
        if let Ok(asked) = self.client.unsubscribe_tracked(NEVER_SUBSCRIBED).await {
            // That there was no such subscription is an answer as well.
            let _ = asked.wait_completion_async().await;
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.over.is_cancelled()
    }

    /// Queues an acknowledgement; false when the connection is over.
    pub(super) async fn acknowledge(&self, ack: ManualAck) -> bool {
        !self.is_dead() && self.client.manual_ack(ack).await.is_ok()
    }
}
