//! What tests share: doubles that are stricter than production, and short names for what they write often.

pub mod census;
pub mod cloud;
pub mod far;
pub mod faulty;
pub mod journey;
pub mod listing;
pub mod loopback;
pub mod mounts;
pub mod odd;
pub mod place;
pub mod repo;
pub mod scratch;
pub mod servers;
pub mod service;
pub mod shipped;
pub mod small;
pub mod tcp_proxy;

use lifeboat::names::{ObjectKey, SessionId, WriterId};

pub fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

pub fn session(number: u8) -> SessionId {
    SessionId::new(WriterId([7; 8]), [number; 8])
}

/// An error with all its causes, on one line.
pub fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
