//! HTTP and HTTPS POST of what the script made; 2xx is delivered.

mod settings;

pub use settings::{HttpMethod, HttpSettings};
