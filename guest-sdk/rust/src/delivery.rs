//! Building a [`Delivery`] in one expression.

use crate::Delivery;

impl Delivery {
    /// A delivery that carries these messages (positions in the batch), to the
    /// stream's own target, without headers.
    pub fn new(messages: Vec<u32>, body: impl Into<Vec<u8>>) -> Self {
        Self { messages, target: None, headers: Vec::new(), body: body.into() }
    }

    /// Sets the target: an MQTT topic, or an HTTP path and query below the
    /// stream's URL.
    #[must_use]
    pub fn to(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Adds a header: an HTTP header, an MQTT 5 user property, or what the
    /// README of the destination says that it consumes.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}
