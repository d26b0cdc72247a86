//! One counter of the file that `coverage` shares. In a module of its own, so that every `cargo test` has it.

/// Returns what the shared counter has to become; nothing where this process counted nothing.
///
/// Between the read of `before` and a write of the sum another process may have counted. That count is lost,
/// which changes no answer as long as what is written is not 0: so 0 is never written, and nothing wraps to it.
pub const fn sum(before: u64, counted: u64) -> Option<u64> {
    if counted == 0 {
        return None;
    }
    Some(before.saturating_add(counted))
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn what_was_not_counted_is_not_written() {
        assert_eq!(sum(0, 0), None);
        assert_eq!(sum(5, 0), None);
    }

    #[test]
    fn a_line_that_was_reached_stays_reached() {
        assert_eq!(sum(0, 2), Some(2));
        assert_eq!(sum(5, 2), Some(7));
        assert_eq!(sum(u64::MAX, 1), Some(u64::MAX));
    }
}
