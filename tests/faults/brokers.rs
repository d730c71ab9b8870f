//! Brokers that die with what they had acknowledged, whether they find it again or not.

use std::time::Duration;

use devices::{fleet::Orders, site::Site};

use crate::{Done, PATIENCE, lineage};

const DEVICES: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn brokers_killed_with_what_they_had_acknowledged_lost_or_kept_cost_nothing() -> Done {
    let mut site = Site::lay_out(2)?;
    site.start_brokers()?;
    site.serve()?;
    let orders = Orders { epochs: true, ..Orders::default() };
    let fleet = site.affirmed_fleet(site.place()?, DEVICES, orders).await?;
    for (programs, lost) in [(5, true), (9, false), (14, true)] {
        // In the middle of what they say.
        fleet.order(|orders| (orders.programs, orders.rounds) = (programs, orders.rounds + 1));
        tokio::time::sleep(Duration::from_millis(u64::from(programs) * 7)).await;
        site.kill_brokers(lost)?;
        site.start_brokers()?;
        fleet.until("connected again", PATIENCE, |book| book.connected).await?;
        fleet
            .until("all is acknowledged", PATIENCE, move |book| {
                book.entries == u64::from(programs) && book.all_acknowledged()
            })
            .await?;
    }
    lineage::holds(&site, &fleet.end().await)
}
