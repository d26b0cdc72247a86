use super::*;

fn ranges(pairs: &[(u32, u32)]) -> Vec<Range> {
    pairs.iter().map(|&(start, count)| Range { start, count }).collect()
}

fn chosen(container: u32) -> Vec<Mapping> {
    vec![Mapping { container, host: 1000, size: 1 }]
}

fn map(container: u32, pairs: &[(u32, u32)]) -> Result<Vec<(u32, u32, u32)>, &'static str> {
    let map =
        make_map("uid", 1000, &ranges(pairs), &chosen(container)).map_err(|error| error.code)?;
    Ok(map.iter().map(|range| (range.inside, range.outside, range.count)).collect())
}

/// The definition in the module's documentation, id by id.
fn host_id(id: u32, chosen: u32, pairs: &[(u32, u32)]) -> Option<u32> {
    let mut subordinate = pairs.iter().flat_map(|&(start, count)| start..start + count);
    match id {
        _ if id == chosen => Some(1000),
        _ if id < chosen => subordinate.nth(id as usize),
        _ => subordinate.nth(id as usize - 1),
    }
}

#[test]
fn the_caller_stands_at_the_chosen_id() {
    let one = [(100_000, 65_536)];
    assert_eq!(map(0, &[]), Ok(vec![(0, 1000, 1)]));
    assert_eq!(map(999, &[]), Ok(vec![(999, 1000, 1)]));
    assert_eq!(map(0, &one), Ok(vec![(0, 1000, 1), (1, 100_000, 65_536)]));
    assert_eq!(
        map(999, &one),
        Ok(vec![(0, 100_000, 999), (999, 1000, 1), (1000, 100_999, 64_537)])
    );
    assert_eq!(map(5, &[(100_000, 5)]), Ok(vec![(0, 100_000, 5), (5, 1000, 1)]));
    assert_eq!(map(7, &[(100_000, 5)]), Ok(vec![(0, 100_000, 5), (7, 1000, 1)]));
    let two = [(100_000, 5), (300_000, 5)];
    assert_eq!(map(5, &two), Ok(vec![(0, 100_000, 5), (5, 1000, 1), (6, 300_000, 5)]));
    // Ranges that follow each other on the host are one extent.
    assert_eq!(map(10, &[(100_000, 5), (100_005, 5)]), Ok(vec![(0, 100_000, 10), (10, 1000, 1)]));
    assert_eq!(map(0, &[(1001, 5)]), Ok(vec![(0, 1000, 6)]));
}

#[test]
fn every_map_is_the_defined_one() {
    for pairs in [
        &[][..],
        &[(100, 3)],
        &[(100, 3), (50, 2)],
        &[(100, 3), (103, 4), (10, 1)],
        &[(1001, 2), (998, 2)],
    ] {
        for chosen in 0..14 {
            let map = make_map("uid", 1000, &ranges(pairs), &self::chosen(chosen)).unwrap();
            for id in 0..20 {
                let found =
                    map.iter().find(|range| id >= range.inside && id - range.inside < range.count);
                let outside = found.map(|range| range.outside + (id - range.inside));
                assert_eq!(outside, host_id(id, chosen, pairs), "{id} {chosen} {pairs:?}");
                assert_eq!(is_mapped(&map, id), outside.is_some());
            }
        }
    }
}

#[test]
fn the_spec_only_chooses_which_id_is_the_caller() {
    let entry = |container, host, size| Mapping { container, host, size };
    assert_eq!(make_map("uid", 1000, &[], &[]).unwrap().len(), 1);
    assert!(make_map("uid", 1000, &[], &[entry(65_534, 1000, 1)]).is_ok());
    let refused = [
        vec![entry(0, 0, 1)],
        vec![entry(0, 1001, 1)],
        vec![entry(0, 100_000, 1)],
        vec![entry(0, 1000, 2)],
        vec![entry(0, 1000, 0)],
        vec![entry(0, 0, u32::MAX - 1)],
        vec![entry(65_535, 1000, 1)],
        vec![entry(0, 1000, 1), entry(1, 100_000, 65_536)],
        vec![entry(0, 1000, 1), entry(0, 1000, 1)],
    ];
    for entries in &refused {
        assert_eq!(
            make_map("uid", 1000, &[], entries).unwrap_err().code,
            "map.entry",
            "{entries:?}"
        );
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"28-map"));
        assert!(refused.iter().all(|entries| make_map("uid", 1000, &[], entries).is_ok()));
    }
}

#[test]
fn ranges_of_the_host_are_checked() {
    let max = u32::MAX;
    let cases: &[(&str, &[(u32, u32)])] = &[
        ("subids.range", &[(0, 1)]),
        ("subids.range", &[(0, 65_536)]),
        ("subids.range", &[(1000, 1)]),
        ("subids.range", &[(900, 101)]),
        ("subids.range", &[(100_000, 5), (1000, 5)]),
        ("subids.range", &[(max - 1, 2)]),
        ("subids.range", &[(max, 1)]),
        ("subids.range", &[(2, max)]),
        ("subids.overlap", &[(100, 10), (109, 1)]),
        ("subids.overlap", &[(109, 1), (100, 10)]),
        ("subids.overlap", &[(100, 10), (50, 51)]),
        ("subids.overlap", &[(100, 10), (300, 1), (100, 10)]),
    ];
    for (code, pairs) in cases {
        assert_eq!(map(0, pairs), Err(*code), "{pairs:?}");
    }
    for pairs in [&[(900, 100)][..], &[(1001, 1)], &[(max - 1, 1)], &[(1, 999), (1001, max - 1001)]]
    {
        assert!(map(0, pairs).is_ok(), "{pairs:?}");
        assert!(map(65_534, pairs).is_ok(), "{pairs:?}");
    }
    let zero = make_map("gid", 0, &[], &[]);
    assert_eq!(zero.unwrap_err().code, "map.host-zero");
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"28-range"));
        for (_, pairs) in cases.iter().filter(|(_, pairs)| pairs.iter().all(|pair| pair.1 < max)) {
            assert!(map(0, pairs).is_ok(), "{pairs:?}");
        }
        assert!(make_map("gid", 0, &[], &[]).is_ok());
    }
}

#[test]
fn extents_are_counted_as_the_kernel_does() {
    // Two ids apart, so that none merges; short numbers, so that the text stays below a page.
    let many = |count: u32| (0..count).map(|n| (2000 + n * 2, 1)).collect::<Vec<_>>();
    assert_eq!(map(0, &many(339)).map(|map| map.len()), Ok(340));
    assert_eq!(map(0, &many(340)), Err("map.extents"));
    // An extent more for the range that is split.
    let wide = |count: u32| (0..count).map(|n| (2000 + n * 20, 10)).collect::<Vec<_>>();
    assert_eq!(map(0, &wide(300)).map(|map| map.len()), Ok(301));
    assert_eq!(map(5, &wide(300)).map(|map| map.len()), Ok(302));
    let long =
        |count: u32| (0..count).map(|n| (4_000_000_000 + n * 200_000, 100_000)).collect::<Vec<_>>();
    assert!(map(0, &long(120)).is_ok());
    assert_eq!(map(0, &long(200)), Err("map.extents"));
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"54-extents"));
        assert!(map(0, &many(340)).is_ok() && map(0, &long(200)).is_ok());
    }
}

#[test]
fn a_map_is_written_as_the_kernel_reads_it() {
    let map = make_map("uid", 1000, &ranges(&[(100_000, 65_536)]), &chosen(1)).unwrap();
    assert_eq!(render_map(&map), b"0 100000 1\n1 1000 1\n2 100001 65535\n");
}

#[test]
fn a_map_may_fill_its_page_but_for_the_nul() {
    let length = |pairs: &[(u32, u32)]| {
        let map = make_map("uid", 1000, &ranges(pairs), &[]).map_err(|error| error.code)?;
        Ok::<_, &str>(render_map(&map).len())
    };
    // Far apart, so that none merges; the last number decides the length of the text.
    let pairs = |count: u32, last: u32| {
        let far = (0..count).map(|n| (1_000_000_000 + n * 2, 1));
        far.chain([(last, 1)]).collect::<Vec<_>>()
    };
    let lasts = [30, 300, 3000, 30_000, 300_000, 3_000_000, 30_000_000];
    let mut all = (200..300).flat_map(|count| lasts.map(|last| (count, last)));
    let (count, last) =
        all.find(|(count, last)| length(&pairs(*count, *last)) == Ok(4095)).expect("4095 bytes");
    assert_eq!(length(&pairs(count, last * 10)), Err("map.extents"));
}
