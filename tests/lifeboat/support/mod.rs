//! What tests share: doubles that are stricter than production, and short names for what they write often.

pub mod far;
pub mod faulty;
pub mod listing;
pub mod repo;
pub mod service;
pub mod shipped;
pub mod small;

use lifeboat::names::{ObjectKey, SessionId, WriterId};

pub fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

pub fn session(number: u8) -> SessionId {
    SessionId::new(WriterId([7; 8]), [number; 8])
}
