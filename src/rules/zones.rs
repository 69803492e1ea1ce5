//! The time zones in which a phone number may be, by its prefix. A number says where it was issued, not where the
//! person is.

use std::{
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

use jiff::{
    Timestamp,
    tz::{Offset, TimeZone, db},
};

use crate::domain::Phone;

/// The zones of a number that matches no prefix of the table: zones around the globe.
pub const UNKNOWN: &str = "Africa/Abidjan+America/Los_Angeles+America/Sao_Paulo+Asia/Kolkata+Asia/Tokyo+Pacific/Kiritimati+\
    Pacific/Pago_Pago";

/// The period, in Unix seconds, in which two zones must have the same clocks to be in one group: 2025 to 2035.
const COMPARED: (i64, i64) = (1_735_689_600, 2_051_222_400);

/// Prefixes, as numbers, with their zones. The head of the file names its source.
static TABLE: LazyLock<HashMap<u64, &str>> = LazyLock::new(|| entries().collect());

fn entries() -> impl Iterator<Item = (u64, &'static str)> {
    let lines = include_str!("zones.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).filter_map(|(prefix, zones)| Some((prefix.parse().ok()?, zones)))
}

/// The zones of the table.
static LISTED: LazyLock<BTreeSet<&str>> = LazyLock::new(|| TABLE.values().flat_map(|group| names(group)).collect());

/// One zone for each set of zones with the same clocks: a zone of the table, if the set has one.
static BY_CLOCKS: LazyLock<HashMap<Clocks, String>> = LazyLock::new(|| {
    // Names with a plus are left out, because a plus joins the names of a group. Zones that only have such a name, such
    // as Etc/GMT+12, are uninhabited.
    let mut known: Vec<String> =
        db().available().map(|name| name.to_string()).filter(|name| !name.contains('+')).collect();
    known.sort_unstable();
    let mut by_clocks = HashMap::new();
    for name in LISTED.iter().map(|name| (*name).to_owned()).chain(known) {
        if let Some(zone) = of_database(&name) {
            by_clocks.entry(clocks(&zone)).or_insert(name);
        }
    }
    by_clocks
});

/// The offset from UTC at the start of [`COMPARED`], and the changes of the clocks in it.
type Clocks = (Offset, Vec<(Timestamp, Offset)>);

fn clocks(zone: &TimeZone) -> Clocks {
    let [start, end] = [COMPARED.0, COMPARED.1].map(|at| Timestamp::from_second(at).unwrap_or_default());
    let changes = zone.following(start).map(|change| (change.timestamp(), change.offset()));
    (zone.to_offset(start), changes.take_while(|(at, _)| *at < end).collect())
}

/// The time zone with this name in the tz database, ignoring case. `None` if there is none, or if the name is a special
/// file of the database: the clock of the machine, a set of rules, or a placeholder for an unknown zone.
pub fn of_database(name: &str) -> Option<TimeZone> {
    const NO_ZONES: [&str; 5] = ["localtime", "posixrules", "Factory", "Etc/Unknown", "leapseconds"];
    // Copies of the whole database that some systems have, one of them with leap seconds.
    const COPIES: [&str; 2] = ["posix/", "right/"];
    let begins_with = |folder: &str| name.get(..folder.len()).is_some_and(|start| start.eq_ignore_ascii_case(folder));
    let is_zone =
        !NO_ZONES.iter().any(|other| other.eq_ignore_ascii_case(name)) && !COPIES.into_iter().any(begins_with);
    TimeZone::get(name).ok().filter(|_| is_zone)
}

/// The time zone with this name in the tz database, ignoring case, as a group of one zone. If the table does not have
/// the zone, returns one with the same clocks, so that there are few different groups. `None` if there is no such zone.
pub fn of_name(name: &str) -> Option<&'static str> {
    let zone = of_database(name)?;
    let listed = zone.iana_name().and_then(|name| LISTED.get(name)).copied();
    listed.or_else(|| BY_CLOCKS.get(&clocks(&zone)).map(String::as_str))
}

/// The zones in which a number may be, as a group: their names in the tz database, sorted and joined by `+`.
pub fn of_phone(phone: Phone) -> &'static str {
    let mut prefix = phone.digits();
    while prefix > 0 {
        if let Some(zones) = TABLE.get(&prefix) {
            return zones;
        }
        prefix /= 10;
    }
    UNKNOWN
}

/// The names of the zones of a group.
pub fn names(group: &str) -> impl Iterator<Item = &str> {
    group.split('+')
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn of(digits: &str) -> &'static str {
        of_phone(format!("+{digits}").parse().expect("a number"))
    }

    #[test]
    fn every_line_of_the_table_is_a_prefix_with_known_zones() {
        let n = include_str!("zones.txt").lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!((entries().count(), TABLE.len()), (n, n));
        for (prefix, zones) in entries() {
            let names: Vec<&str> = names(zones).collect();
            assert!(names.is_sorted(), "{prefix}");
            assert!(names.iter().all(|name| TimeZone::get(name).is_ok()), "{prefix} {zones}");
        }
        assert!(names(UNKNOWN).all(|name| TimeZone::get(name).is_ok()));
    }

    #[test]
    fn a_zone_by_name_is_one_of_the_table_or_has_its_clocks() {
        for (name, group) in [
            ("America/Bogota", Some("America/Bogota")),
            ("america/bogota", Some("America/Bogota")),
            ("Asia/Kolkata", Some("Asia/Kolkata")),
            ("US/Pacific", Some("America/Los_Angeles")),
            ("Etc/GMT+5", Some("America/Bogota")),
            ("Etc/GMT+12", None),
            ("Bogota", None),
            ("localtime", None),
            ("posixrules", None),
            ("factory", None),
            ("Etc/Unknown", None),
            ("right/America/Bogota", None),
            ("recipient", None),
            ("", None),
        ] {
            assert_eq!(of_name(name), group, "{name}");
        }
        let all: Vec<String> = db().available().map(|name| name.to_string()).collect();
        let mut groups: Vec<&str> = all.iter().filter_map(|name| of_name(name)).collect();
        groups.sort_unstable();
        groups.dedup();
        assert!(all.len() > 400 && groups.len() < LISTED.len() + 20, "{} of {}", groups.len(), all.len());
    }

    #[test]
    fn a_number_has_the_zones_of_its_country_and_area_code() {
        for (number, zones) in [
            ("573001234567", "America/Bogota"),
            ("5491155550001", "America/Argentina/Buenos_Aires"),
            ("5511987654321", "America/Sao_Paulo"),
            ("5581987654321", "America/Recife"),
            ("5568987654321", "America/Rio_Branco"),
            ("5597987654321", "America/Eirunepe+America/Manaus"),
            ("525512345678", "America/Mexico_City"),
            ("526641234567", "America/Tijuana"),
            ("5216641234567", "America/Tijuana"),
            ("526141234567", "America/Chihuahua+America/Mazatlan"),
            ("34612345678", "Atlantic/Canary+Europe/Madrid"),
            ("34911234567", "Europe/Madrid"),
            ("56912345678", "America/Punta_Arenas+America/Santiago"),
            ("919812345678", "Asia/Kolkata"),
            ("12125550123", "America/New_York"),
            ("999123456789", UNKNOWN),
        ] {
            assert_eq!(of(number), zones, "{number}");
        }
    }
}
