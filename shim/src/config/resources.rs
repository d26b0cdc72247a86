//! `linux.resources`: the limits that have a place here, and device rules that say what is so anyway.

use alloc::vec::Vec;

use super::members::{Members, Place, unsigned};
use crate::error::Error;
use crate::json::Value;
use crate::rules::{Rule, active};

/// `linux.resources`, as far as it is known; absent is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `memory.limit`, in bytes; -1 is no limit.
    pub memory: Option<i64>,
    /// `memory.swap`: memory and swap together, in bytes; -1 is no limit.
    pub memory_and_swap: Option<i64>,
    /// `pids.limit`: tasks; -1 is no limit.
    pub pids: Option<i64>,
    /// `cpu.quota`, in microseconds a period; -1 is no limit.
    pub quota: Option<i64>,
    /// `cpu.period`, in microseconds.
    pub period: Option<u64>,
    /// `cpu.shares`: a weight of cgroup v1.
    pub shares: Option<u64>,
}

/// Reads `linux.resources`.
pub(super) fn parse(value: Value, place: &Place) -> Result<Resources, Error> {
    let mut members = Members::open(value, place, "linux.resources")?;
    let deny_all = Value::Object(Vec::from([
        (b"access".to_vec(), Value::String(b"rwm".to_vec())),
        (b"allow".to_vec(), Value::Boolean(false)),
    ]));
    for device in members.list("devices", |value, _| Ok(value))? {
        if active(Rule::DeviceRules) && device != deny_all {
            let why = "linux.resources.devices has a rule that is not deny-all";
            let hint = r#"keep only {"allow": false, "access": "rwm"}; null zero full random urandom tty are always there"#;
            return Err(Error::refused("config.devices", why, hint));
        }
    }
    let (memory, memory_and_swap) = members.object("memory", parse_memory)?.unwrap_or_default();
    let pids = members.object("pids", parse_pids)?.flatten();
    let (quota, period, shares) = members.object("cpu", parse_cpu)?.unwrap_or_default();
    members.finish()?;
    Ok(Resources { memory, memory_and_swap, pids, quota, period, shares })
}

fn parse_memory(value: Value, place: &Place) -> Result<(Option<i64>, Option<i64>), Error> {
    let mut members = Members::open(value, place, "linux.resources.memory")?;
    let limits = (members.signed("limit")?, members.signed("swap")?);
    members.finish()?;
    Ok(limits)
}

fn parse_pids(value: Value, place: &Place) -> Result<Option<i64>, Error> {
    let mut members = Members::open(value, place, "linux.resources.pids")?;
    let limit = members.signed("limit")?;
    members.finish()?;
    Ok(limit)
}

type Cpu = (Option<i64>, Option<u64>, Option<u64>);

fn parse_cpu(value: Value, place: &Place) -> Result<Cpu, Error> {
    let mut members = Members::open(value, place, "linux.resources.cpu")?;
    let number = |value: Value, place: &Place| unsigned(value, place, u64::MAX);
    let cpu = (
        members.signed("quota")?,
        members.object("period", number)?,
        members.object("shares", number)?,
    );
    members.finish()?;
    Ok(cpu)
}
