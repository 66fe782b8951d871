//! Every test from outside, in one binary that links once.

mod backup;
mod cli;
mod daemon;
mod damage;
mod drill;
mod formats;
mod kill;
mod memory;
mod policies;
mod restore;
mod roles;
mod round_trips;
mod store_contract;
mod store_faults;
mod store_local;
mod store_system_calls;
mod support;
