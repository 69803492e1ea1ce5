//! HTTP endpoints of the operator's own systems, to which Pregón posts: where they are, which addresses they may have,
//! and how one attempt to deliver a body is made.

mod addresses;
mod client;
mod url;

pub use self::{
    addresses::{NotPublic, is_public},
    client::{DeliveryError, EndpointClient, NoEndpointClient},
    url::{BadEndpointUrl, EndpointUrl},
};

/// An address that Pregón posts to. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where requests go.
    pub url: EndpointUrl,
    /// Whether it may have a private address.
    pub allow_private: bool,
}
