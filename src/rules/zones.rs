//! The time zones in which a phone number may be, by its prefix. A number says where it was issued, not where the person is.

use std::{collections::HashMap, sync::LazyLock};

use crate::domain::Phone;

/// The zones of a number that no prefix of the table fits: the first and the last one of a day.
pub const UNKNOWN: &str = "Pacific/Kiritimati+Pacific/Pago_Pago";

/// Prefixes, as numbers, with their zones. The head of the file names its source.
static TABLE: LazyLock<HashMap<u64, &str>> = LazyLock::new(|| entries().collect());

fn entries() -> impl Iterator<Item = (u64, &'static str)> {
    let lines = include_str!("zones.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).filter_map(|(prefix, zones)| Some((prefix.parse().ok()?, zones)))
}

/// The zones in which a number may be, as a group: their names in the tz database, in order, joined by `+`.
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
