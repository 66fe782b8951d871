//! Every test from outside, in one binary that links once.

mod backup;
mod cli;
mod daemon;
mod damage;
mod drill;
mod fidelity;
mod filesystems;
mod formats;
mod history;
mod kill;
mod memory;
mod policies;
mod restore;
mod roles;
mod store_contract;
mod store_faults;
mod store_local;
mod store_system_calls;
mod support;
