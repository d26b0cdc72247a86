//! config.json to plan: as raw text, and as text that a grammar makes of the input.

use locald_shim::config::Config;
use locald_shim::json::{self, Value};
use locald_shim::plan::{Mode, Network, Plan};
use locald_shim::policy::{Caller, Host, make_plan};
use locald_shim::subids::Range;

use super::{check_error, expand, grammar, json::render, plan, spec};

/// The input is the text of a config.json. It is judged for four callers.
pub fn run_text(data: &[u8]) {
    judge(&expand(data), &callers());
}

/// The input chooses from a grammar: most configs that it makes are accepted or nearly so.
pub fn run_grammar(data: &[u8]) {
    let mut choices = grammar::Choices::new(data);
    let (caller, host) = grammar::make_caller(&mut choices);
    let text = grammar::make_config(&mut choices, &caller);
    judge(&text, &[(caller, host)]);
}

/// With and without ranges, groups and limits; the last one is root, who gets nothing.
fn callers() -> [(Caller, Host); 4] {
    let caller = |uid: u32, groups: &[u32], limit: u64| Caller {
        uid,
        gid: uid,
        groups: groups.to_vec(),
        rlimits: [(limit / 2, limit); 16],
        oom_score_adj: 0,
    };
    let range = |start: u32| vec![Range { start, count: 65_536 }];
    let rich = Host { subuids: range(100_000), subgids: range(200_000), ram_bytes: 8 << 30 };
    let poor = Host { subuids: Vec::new(), subgids: Vec::new(), ram_bytes: 1 << 20 };
    [
        (caller(1000, &[27], u64::MAX), rich.clone()),
        (caller(1000, &[], 1 << 20), poor.clone()),
        (caller(65_534, &[], 4096), Host { subgids: Vec::new(), ..rich.clone() }),
        (caller(0, &[], 4096), rich),
    ]
}

fn judge(text: &[u8], callers: &[(Caller, Host)]) {
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err(error) => return check_error(&error),
    };
    let value = json::parse(text).expect("a config is JSON");
    let mut again = Vec::new();
    render(&value, &mut again);
    assert_eq!(Config::parse(&again).as_ref(), Ok(&config), "another spelling, another config");
    for (caller, host) in callers {
        match make_plan(config.clone(), caller, host) {
            Ok(made) => {
                plan::check(&made, caller, host);
                spec::check_accepted(&value, caller);
                check_faithful(&made, &value);
            }
            Err(error) => check_error(&error),
        }
    }
}

/// What was checked is what will be used: the plan says what the config said, byte for byte.
fn check_faithful(plan: &Plan, config: &Value) {
    let process = spec::get(config, "process");
    let strings = |made: &[std::ffi::CString], name: &str| {
        let asked: Vec<&[u8]> =
            spec::items(spec::get(process, name)).iter().map(spec::text).collect();
        let made: Vec<&[u8]> = made.iter().map(|string| string.as_bytes()).collect();
        assert_eq!(made, asked, "process.{name}");
    };
    strings(&plan.process.args, "args");
    strings(&plan.process.env, "env");
    assert_eq!(plan.process.cwd.as_bytes(), spec::text(spec::get(process, "cwd")));
    let user = spec::get(process, "user");
    let number = |name: &str| match spec::get(user, name) {
        Value::Unsigned(number) => *number,
        other => panic!("process.user.{name} is {other:?}"),
    };
    let asked = (number("uid"), number("gid"));
    assert_eq!((plan.process.uid.into(), plan.process.gid.into()), asked, "process.user");
    let root = spec::get(config, "root");
    assert_eq!(plan.root.path.as_bytes(), spec::text(spec::get(root, "path")), "root.path");
    assert_eq!(plan.root.readonly, spec::get(root, "readonly") == &Value::Boolean(true));
    let spaces = spec::items(spec::get(spec::get(config, "linux"), "namespaces"));
    let asks =
        |kind: &[u8]| spaces.iter().any(|space| spec::text(spec::get(space, "type")) == kind);
    assert_eq!(asks(b"user"), matches!(plan.mode, Mode::Mapped { .. }), "another mode");
    assert_eq!(asks(b"network"), plan.network == Network::New, "another network");
    let mounts = spec::items(spec::get(config, "mounts"));
    for mount in &plan.mounts {
        let same = |asked: &&Value| {
            spec::text(spec::get(asked, "destination")) == mount.destination.as_bytes()
        };
        let asked: Vec<&Value> = mounts.iter().filter(same).collect();
        assert!(!asked.is_empty(), "a mount that nobody asked for");
        let option = |name: &[u8]| {
            asked.iter().all(|asked| {
                spec::items(spec::get(asked, "options")).iter().any(|o| spec::text(o) == name)
            })
        };
        assert!(mount.readonly || !option(b"ro"), "ro is lost");
        assert!(mount.noexec || !option(b"noexec"), "noexec is lost");
    }
    check_limits(plan, spec::get(spec::get(config, "linux"), "resources"));
}

/// A limit that was asked for is the leaf's, to the number; none that was not is.
fn check_limits(plan: &Plan, resources: &Value) {
    let asked = |of: &str, name: &str| match spec::get(spec::get(resources, of), name) {
        Value::Unsigned(number) => Some(i128::from(*number)),
        Value::Negative(number) => Some(i128::from(*number)),
        _ => None,
    };
    // -1 is "no limit", of cpu also 0.
    let limited = |of, name| asked(of, name).filter(|number| *number != -1);
    let made = |file| plan::limit_of(&plan.limits, file);
    let memory = limited("memory", "limit");
    assert_eq!(made("memory.max"), memory, "memory.limit");
    let swap = limited("memory", "swap").map(|both| memory.map(|memory| both - memory));
    assert_eq!(made("memory.swap.max").map(Some), swap, "memory.swap");
    assert_eq!(made("pids.max"), limited("pids", "limit"), "pids.limit");
    assert_eq!(made("cpu.max"), limited("cpu", "quota").filter(|n| *n != 0), "cpu.quota");
    let shares = asked("cpu", "shares").filter(|number| *number != 0);
    assert_eq!(made("cpu.weight").is_some(), shares.is_some(), "cpu.shares");
    assert!(shares.is_none_or(|shares| (2..=262_144).contains(&shares)), "cpu.shares {shares:?}");
}
