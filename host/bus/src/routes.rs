//! The router in use, which another one may replace while the bus is read.

use std::sync::Arc;

use tokio::sync::watch;

use super::route::Router;

/// The router in use. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Routes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The router, and how many there were before it.
    current: watch::Sender<(u64, Arc<Router>)>,
    /// The number of the last router whose filters the broker has all answered.
    subscribed: watch::Sender<Option<u64>>,
}

/// What the bus knows of the routers. Each is seen once.
#[derive(Debug)]
pub(super) struct Changes {
    routes: Routes,
    current: watch::Receiver<(u64, Arc<Router>)>,
}

impl Routes {
    /// The first router.
    pub fn new(router: Router) -> Self {
        let current = watch::Sender::new((0, Arc::new(router)));
        Self(Arc::new(Shared { current, subscribed: watch::Sender::new(None) }))
    }

    /// Routes by this router from now on, and lets the bus subscribe to what
    /// is new in it and then unsubscribe from what is no longer in it.
    ///
    /// Routing comes first: what a new subscription brings must find its owner.
    /// What the broker still sends for a filter that is gone goes to every
    /// stream that matches.
    pub fn replace(&self, router: Router) {
        self.0.current.send_modify(|(number, current)| {
            *number += 1;
            *current = Arc::new(router);
        });
    }

    /// The router in use.
    pub fn current(&self) -> Arc<Router> {
        self.0.current.borrow().1.clone()
    }

    /// Waits until the broker has answered for every filter of the router that
    /// is in use now, or of a later one. Waits for ever while there is no
    /// connection.
    pub async fn subscribed(&self) {
        let number = self.0.current.borrow().0;
        let mut subscribed = self.0.subscribed.subscribe();
        // The sender lives as long as this handle.
        let _ = subscribed.wait_for(|done| done.is_some_and(|done| done >= number)).await;
    }

    /// For tests without a bus: as if the broker answered at once.
    #[cfg(any(test, feature = "test-support"))]
    pub fn pretend_subscribed(&self) {
        self.0.subscribed.send_replace(Some(u64::MAX));
    }

    pub(super) fn changes(&self) -> Changes {
        Changes { routes: self.clone(), current: self.0.current.subscribe() }
    }
}

impl Changes {
    /// The router in use and its number; [`Changes::next`] waits for a later one.
    pub(super) fn current(&mut self) -> (u64, Arc<Router>) {
        self.current.borrow_and_update().clone()
    }

    /// Waits for a router that was not seen yet. Safe to cancel.
    pub(super) async fn next(&mut self) {
        // The sender lives as long as this value.
        let _ = self.current.changed().await;
    }

    /// The broker has answered for every filter of this router.
    pub(super) fn subscribed(&self, number: u64) {
        self.routes.0.subscribed.send_replace(Some(number));
    }
}
