//! The end of all things: nobody acts any more, hours have passed, and a collector takes what nobody needs.
//!
//! Owns the claim that no garbage stays for ever.

use super::actors::request;
use super::explore::restored;
use super::objects::Alone;
use super::scene::open;
use super::schedule::{Config, Outcome};
use crate::clock::{Clock, ManualClock};
use crate::prune;

/// One to finish an epoch, one to free what expired, one for what the first two wrote anew, and so on; far fewer are needed.
const PRUNES: usize = 8;

pub fn swept(config: &Config, outcome: &Outcome) -> Result<(), String> {
    let store = Alone::over(outcome.objects.clone());
    let clock = ManualClock::at(outcome.seconds);
    let mut before = None;
    for _ in 0..PRUNES {
        clock.advance(7 * 3600);
        crate::seal::drawn::by(Some(&format!("the last prunes {}", Clock::now(&clock).secs)));
        let repository = open(&store, &config.scene.admin);
        let done = prune::run(&repository, &clock, &request(&repository), &prune::Control::default());
        crate::seal::drawn::by(None);
        let report = done.map_err(|error| format!("a prune at the end of all things failed: {error:?}"))?;
        restored(config, outcome, &store)?;
        let sum = store.objects().sum;
        if report.is_finished() && before == Some(sum) {
            break;
        }
        before = Some(sum);
    }
    let left = outcome.model.garbage(&store.objects())?;
    match left.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} objects that nobody needs stay for ever, {first} among them", left.len())),
    }
}
