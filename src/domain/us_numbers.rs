//! Recognizes numbers of the USA. The calling code 1 is not enough: Canada and most of the Caribbean have it too.
//!
//! The area codes are in `us_area_codes.txt`, with their source.

use std::sync::LazyLock;

use super::Phone;

/// For each number of three digits: whether it is an area code of the USA.
static AREA_CODES: LazyLock<[bool; 1_000]> = LazyLock::new(|| {
    let mut codes = [false; 1_000];
    for code in area_codes() {
        codes[usize::from(code)] = true;
    }
    codes
});

fn area_codes() -> impl Iterator<Item = u16> {
    let lines = include_str!("us_area_codes.txt").lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).filter_map(|code| code.parse().ok()).filter(|code| *code < 1_000)
}

/// Whether the number has the calling code 1 and an area code of the USA, without its territories.
pub fn is_us(phone: Phone) -> bool {
    let digits = phone.digits();
    digits / 10_u64.pow(10) == 1 && AREA_CODES[(digits / 10_u64.pow(7) % 1_000) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_the_usa_are_of_the_usa() {
        for us in ["+12025550123", "+14155552671", "+19075550100", "+18085550100", "+13055550100"] {
            assert!(is_us(us.parse().expect(us)), "{us}");
        }
        for other in [
            "+14165550100",  // Toronto
            "+12045550100",  // Manitoba
            "+18765550100",  // Jamaica
            "+18095550100",  // Dominican Republic
            "+17875550100",  // Puerto Rico
            "+16715550100",  // Guam
            "+18005550100",  // toll-free
            "+1202555012",   // too short
            "+120255501234", // too long
            "+5492025550123",
            "+442025550123",
        ] {
            assert!(!is_us(other.parse().expect(other)), "{other}");
        }
    }

    #[test]
    fn the_table_has_each_area_code_once() {
        let codes: Vec<u16> = area_codes().collect();
        assert_eq!(codes.len(), 359);
        assert!(codes.is_sorted_by(|a, b| a < b) && codes[0] >= 200);
        let text = include_str!("us_area_codes.txt").lines().filter(|line| !line.starts_with('#'));
        assert_eq!(text.flat_map(str::split_whitespace).count(), codes.len(), "every word is a code");
    }
}
