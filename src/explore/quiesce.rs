//! The end of all things: nobody acts any more, hours have passed, and a collector takes what nobody needs.
//!
//! Owns the claim that no garbage stays for ever.

use super::explore::restored;
use super::objects::Alone;
use super::schedule::{Config, Outcome};

pub fn swept(config: &Config, outcome: &Outcome) -> Result<(), String> {
    let store = Alone::over(outcome.objects.clone());
    restored(config, outcome, &store)
}
