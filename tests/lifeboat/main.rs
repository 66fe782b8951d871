//! Every test from outside, in one binary that links once.

mod backup;
mod bucket_source;
mod cli;
mod daemon;
mod damage;
mod drill;
mod formats;
mod hands_read;
mod kill;
mod memory;
mod policies;
mod restore;
mod roles;
mod round_trips;
mod store_cloud_doubles;
mod store_cloud_faults;
mod store_cloud_long;
mod store_cloud_whole;
mod store_contract;
mod store_faults;
mod store_local;
mod store_system_calls;
mod support;
