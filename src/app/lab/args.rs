//! The arguments of `tramline lab`: a profile and what differs from it.

use std::time::Duration;

use clap::Args;

use crate::{
    app::failure::Failure,
    session::lab::{
        Blackout, Burst, Ppm, Profile, Rate,
        profile::{BLACKOUTS_MAX, QUEUE_BYTES_MAX},
        profiles,
        quantity::{self, QuantityError, Setting},
    },
};

/// Arguments of `lab`.
#[derive(Clone, Debug, Args)]
pub struct LabArgs {
    /// The link's name; the table below has them all
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub profile: String,
    /// Where clients send to; port 0 is any free one, the ready line tells which
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "list")]
    pub listen: Option<String>,
    /// Where the hub is
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "list")]
    pub to: Option<String>,
    /// Print the profiles
    #[arg(long, conflicts_with_all = ["listen", "to"])]
    pub list: bool,
    /// The dice: the same number throws the same [default: chosen and printed]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Stop after this time [default: at Ctrl-C or SIGTERM]
    #[arg(long = "for", value_name = "TIME", value_parser = quantity::span)]
    pub duration: Option<Duration>,
    /// What differs from the profile.
    #[command(flatten)]
    pub changes: Changes,
}

/// What differs from the profile.
#[derive(Clone, Debug, Default, Args)]
pub struct Changes {
    /// Bits per second each way: 100bit, 2.4kbit, 20Mbit, off
    #[arg(long, value_name = "RATE", value_parser = quantity::rate)]
    pub bandwidth: Option<Rate>,
    /// Bits per second towards the hub
    #[arg(long, value_name = "RATE", value_parser = quantity::rate)]
    pub up: Option<Rate>,
    /// Bits per second towards the clients
    #[arg(long, value_name = "RATE", value_parser = quantity::rate)]
    pub down: Option<Rate>,
    /// One way, beside the time the bits take: 200ms, 1.5s
    #[arg(long, value_name = "TIME", value_parser = quantity::span)]
    pub delay: Option<Duration>,
    /// Up to so much more delay; the order stays
    #[arg(long, value_name = "TIME", value_parser = quantity::span)]
    pub jitter: Option<Duration>,
    /// Independent loss, each way: 30%
    #[arg(long, value_name = "SHARE", value_parser = quantity::share)]
    pub loss: Option<Ppm>,
    /// Loss in bursts: how likely one begins and ends at each datagram, and what it loses (all)
    #[arg(long, value_name = "ENTER/LEAVE[/LOSS]", value_parser = burst)]
    pub burst: Option<Setting<Burst>>,
    /// Held back so that later ones overtake
    #[arg(long, value_name = "SHARE", value_parser = quantity::share)]
    pub reorder: Option<Ppm>,
    /// Delivered twice
    #[arg(long, value_name = "SHARE", value_parser = quantity::share)]
    pub duplicate: Option<Ppm>,
    /// Drop datagrams larger than this, 28 bytes of headers included
    #[arg(long, value_name = "BYTES", value_parser = mtu)]
    pub mtu: Option<Setting<u32>>,
    /// What may wait, each way, in bytes; the rest is dropped
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub queue: Option<u64>,
    /// Give every client a new port on the hub's side this often
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub rebind: Option<Setting<Duration>>,
    /// Forget a client's port when it has sent nothing for so long
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub nat_timeout: Option<Setting<Duration>>,
    /// No link: 10s/60s is ten seconds of every minute, 10s@30s once after thirty; may be given again
    #[arg(long, value_name = "LENGTH/PERIOD", value_parser = blackout)]
    pub blackout: Vec<Setting<Blackout>>,
}

impl LabArgs {
    /// The named profile with the changes made to it.
    pub fn profile(&self) -> Result<Profile, Failure> {
        let named = profiles::find(&self.profile).ok_or_else(|| unknown(&self.profile))?;
        let mut profile = named.profile;
        self.changes.apply(&mut profile)?;
        Ok(profile)
    }
}

impl Changes {
    fn apply(&self, profile: &mut Profile) -> Result<(), Failure> {
        set(&mut profile.up, self.up.or(self.bandwidth));
        set(&mut profile.down, self.down.or(self.bandwidth));
        set(&mut profile.delay, self.delay);
        set(&mut profile.jitter, self.jitter);
        set(&mut profile.loss, self.loss);
        set(&mut profile.burst, self.burst.map(Setting::into_option));
        set(&mut profile.reorder, self.reorder);
        set(&mut profile.duplicate, self.duplicate);
        set(&mut profile.mtu, self.mtu.map(Setting::into_option));
        set(&mut profile.queue_bytes, self.queue);
        set(&mut profile.rebind, self.rebind.map(Setting::into_option));
        set(
            &mut profile.nat_timeout,
            self.nat_timeout.map(Setting::into_option),
        );
        if !self.blackout.is_empty() {
            let blackouts = self.blackout.iter().copied();
            profile.blackouts = blackouts.filter_map(Setting::into_option).collect();
        }
        if profile.blackouts.len() > BLACKOUTS_MAX {
            let reason = format!("--blackout: not above {BLACKOUTS_MAX} times");
            return Err(Failure::usage("LAB_BLACKOUT", reason));
        }
        if profile.queue_bytes > QUEUE_BYTES_MAX {
            let reason = format!("--queue: not above {QUEUE_BYTES_MAX} bytes");
            return Err(Failure::usage("LAB_QUEUE", reason));
        }
        Ok(())
    }
}

fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}

fn unknown(name: &str) -> Failure {
    let names: Vec<&str> = profiles::all().iter().map(|named| named.name).collect();
    let reason = format!("no profile {name:?}; there are {}", names.join(", "));
    Failure::usage("LAB_PROFILE", reason)
}

fn burst(text: &str) -> Result<Setting<Burst>, QuantityError> {
    quantity::setting(text, quantity::burst)
}

fn mtu(text: &str) -> Result<Setting<u32>, QuantityError> {
    quantity::setting(text, quantity::mtu)
}

fn interval(text: &str) -> Result<Setting<Duration>, QuantityError> {
    quantity::setting(text, quantity::span)
}

fn blackout(text: &str) -> Result<Setting<Blackout>, QuantityError> {
    quantity::setting(text, quantity::blackout)
}

/// What stands below the options in `--help`: an example, and every number of every profile.
pub fn after_help() -> String {
    format!(
        "Example:\n  tramline lab --profile radio-100 --listen 127.0.0.1:5600 --to 127.0.0.1:5683 \
         --loss 30% --rebind 60s\n\n\
         Prints one JSON line on stdout when it is ready, and a summary at the end.\n\n\
         Profiles (bits per second up/down; delay one way; MTU and queue in bytes with headers):\n{}",
        profiles::table()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn parse(line: &str) -> Result<LabArgs, clap::Error> {
        let words = ["lab", "--listen", "h:1", "--to", "h:2"].into_iter();
        Line::try_parse_from(words.chain(line.split_whitespace())).map(|line| line.lab)
    }

    #[test]
    fn every_number_of_a_profile_can_be_changed() {
        let args = parse(
            "--profile lte --bandwidth 100bit --down 200bit --delay 200ms --jitter 10ms --loss 30% \
             --burst 1%/50% --reorder 1% --duplicate 2% --mtu 576 --queue 2kB --rebind 60s \
             --nat-timeout 30s --blackout 10s/60s --blackout 5s@30s --seed 9 --for 5min",
        );
        let args = args.unwrap();
        let profile = args.profile().unwrap();

        assert_eq!(
            (args.seed, args.duration),
            (Some(9), Some(Duration::from_mins(5)))
        );
        assert_eq!(
            profile,
            Profile {
                up: Rate::bits(100),
                down: Rate::bits(200),
                delay: Duration::from_millis(200),
                jitter: Duration::from_millis(10),
                loss: Ppm::percent(30),
                burst: Some(quantity::burst("1%/50%").unwrap()),
                reorder: Ppm::percent(1),
                duplicate: Ppm::percent(2),
                mtu: Some(576),
                queue_bytes: 2000,
                rebind: Some(Duration::from_mins(1)),
                nat_timeout: Some(Duration::from_secs(30)),
                blackouts: vec![
                    quantity::blackout("10s/60s").unwrap(),
                    quantity::blackout("5s@30s").unwrap(),
                ],
            }
        );
    }

    #[test]
    fn what_a_profile_has_can_be_switched_off() {
        let args = parse(
            "--profile lte-train --bandwidth off --delay 0s --jitter 0s --loss 0% --mtu off \
             --queue 16777216 --nat-timeout off --blackout off",
        );

        assert_eq!(args.unwrap().profile().unwrap(), Profile::PERFECT);
    }

    #[test]
    fn an_unknown_profile_is_told_the_known_ones() {
        let refused = parse("--profile radio-101").unwrap().profile().unwrap_err();

        assert!(refused.to_string().contains("radio-100"), "{refused}");
    }

    #[test]
    fn a_wrong_number_is_wrong_usage_and_says_how_it_is_written() {
        for (line, hint) in [
            ("--bandwidth 100", "2.4kbit"),
            ("--loss 130%", "100%"),
            ("--delay soon", "200ms"),
            ("--blackout 60s/10s", "shorter"),
        ] {
            let refused = parse(line).unwrap_err().to_string();
            assert!(refused.contains(hint), "{line}: {refused}");
        }
    }
}
