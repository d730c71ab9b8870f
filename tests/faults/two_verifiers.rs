//! Two verifiers that know nothing of each other: one that is dead for a while, or hangs, or lost its brokers, harms the
//! other in nothing, and catches up.

use std::process::Command;

use anyhow::{Result, ensure};
use devices::{deployment::succeeded, site::Site};

use crate::{
    Done,
    device::{Device, history, no_false_alarm},
};

/// Things start on the device while `away` keeps `second` from hearing of them, until `back`.
fn only_one_is_away(
    device: &mut Device,
    [first, second]: [&mut Site; 2],
    away: impl FnOnce(&mut Site) -> Done,
    back: impl FnOnce(&mut Site) -> Done,
) -> Done {
    let rows = history(first)?.len();
    away(second)?;
    let programs = [device.run(&format!("{rows}-{}-a", draw()))?, device.run(&format!("{rows}-{}-b", draw()))?];
    for program in &programs {
        device.is_known_to_run(program, first)?;
    }
    back(second)?;
    for program in &programs {
        device.is_known_to_run(program, second)?;
    }
    ensure!(history(first)?.len() == rows, "the verdict changed at the one that was there all the time");
    Ok(())
}

fn draw() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(())
}

fn both_know_what_runs(device: &mut Device, sites: [&Site; 2]) -> Done {
    let program = device.run("before")?;
    sites.into_iter().try_for_each(|site| device.is_known_to_run(&program, site))
}

fn signal(site: &Site, name: &str) -> Result<()> {
    let pid = site.verifier_pid()?.to_string();
    succeeded("kill", &Command::new("kill").args([name, &pid]).output()?)
}

#[test]
fn of_two_verifiers_at_one_broker_one_that_dies_or_hangs_harms_the_other_in_nothing() -> Done {
    let mut first = Site::lay_out(2)?;
    let mut second = first.beside("other", 2)?;
    let ports = first.ports();
    let mut device = Device::start(&[(&first, ports.devices), (&second, ports.devices)])?;
    first.start_brokers()?;
    first.serve()?;
    second.serve()?;
    both_know_what_runs(&mut device, [&first, &second])?;

    let die = |site: &mut Site| {
        site.kill_verifier();
        Ok(())
    };
    only_one_is_away(&mut device, [&mut first, &mut second], die, Site::serve)?;
    let (hang, go_on) = (|site: &mut Site| signal(site, "-STOP"), |site: &mut Site| signal(site, "-CONT"));
    only_one_is_away(&mut device, [&mut first, &mut second], hang, go_on)?;
    only_one_is_away(&mut device, [&mut second, &mut first], die, Site::serve)?;
    no_false_alarm(&first)?;
    no_false_alarm(&second)
}

#[test]
fn of_two_verifiers_at_brokers_of_their_own_one_that_lost_its_broker_harms_the_other_in_nothing() -> Done {
    let (mut first, mut second) = (Site::lay_out(2)?, Site::lay_out_as("other", 2)?);
    let at = [(&first, first.ports().devices), (&second, second.ports().devices)];
    let mut device = Device::start(&at)?;
    for site in [&mut first, &mut second] {
        site.start_brokers()?;
        site.serve()?;
    }
    both_know_what_runs(&mut device, [&first, &second])?;

    let lose = |site: &mut Site| site.kill_brokers(true);
    only_one_is_away(&mut device, [&mut first, &mut second], lose, Site::start_brokers)?;
    only_one_is_away(&mut device, [&mut second, &mut first], lose, Site::start_brokers)?;
    no_false_alarm(&first)?;
    no_false_alarm(&second)
}
