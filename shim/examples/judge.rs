//! Says what the policy makes of configs: for tests of `locald`, never part of a wheel.
//!
//! Standard input holds any number of questions, each a line `UID GID SUBUIDS SUBGIDS RANGES GROUPS
//! LENGTH` and LENGTH bytes of a config.json; the first two counts are of subordinate ids from 100000
//! on, in so many ranges; GROUPS is how many supplementary groups the caller has. Each answer is a line:
//! `plan`, or that of the refusal.

use std::io::{self, BufRead, Read, Write};

use locald_shim::config::Config;
use locald_shim::policy::{Caller, Host, make_plan};
use locald_shim::subids::Range;

const FIRST_SUBORDINATE: u32 = 100_000;
const FIRST_GROUP: u32 = 5_000;

fn main() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let numbers: Vec<u32> =
            line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [uid, gid, subuids, subgids, pieces, groups, length] = numbers[..] else {
            return Err(io::Error::other("a question is seven numbers"));
        };
        let mut text = vec![0; length as usize];
        input.read_exact(&mut text)?;
        let caller = Caller {
            uid,
            gid,
            groups: (0..groups).map(|number| FIRST_GROUP + number).collect(),
            rlimits: [(1024, 4096); 16],
            oom_score_adj: 0,
        };
        let host = Host {
            subuids: ranges(subuids, pieces),
            subgids: ranges(subgids, pieces),
            ram_bytes: 8 << 30,
        };
        let answer = match Config::parse(&text).and_then(|config| make_plan(config, &caller, &host))
        {
            Ok(_) => b"plan\n".to_vec(),
            Err(error) => error.line(),
        };
        io::stdout().write_all(&answer)?;
        io::stdout().flush()?;
        line.clear();
    }
    Ok(())
}

/// `count` ids in at most `pieces` ranges, with room between them.
fn ranges(count: u32, pieces: u32) -> Vec<Range> {
    let size = count.div_ceil(pieces.max(1));
    (0..pieces)
        .map(|number| Range {
            start: FIRST_SUBORDINATE + number * 2 * size,
            count: size.min(count.saturating_sub(number * size)),
        })
        .filter(|range| range.count > 0)
        .collect()
}
