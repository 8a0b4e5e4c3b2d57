//! stub
use super::Watch;
use crate::{api::Refusal, session::coap::Request};

pub(super) fn watched(_: &Request) -> Result<Watch, Refusal> {
    Err(Refusal::internal())
}
