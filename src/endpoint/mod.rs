//! HTTP endpoints of the operator's own systems to which Pregón posts: their URLs, the addresses that they may have,
//! and single attempts to deliver a body.

mod addresses;
mod client;
mod url;

pub use self::{
    addresses::{NotPublic, is_public},
    client::{DeliveryError, EndpointClient, NoEndpointClient},
    url::{BadEndpointUrl, EndpointUrl},
};

/// An endpoint to which Pregón posts. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The URL to which requests go.
    pub url: EndpointUrl,
    /// Whether the URL may lead to a private address.
    pub allow_private: bool,
}
