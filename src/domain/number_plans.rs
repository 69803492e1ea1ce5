//! Countries in which one person has two numbers: with and without a digit that marks mobile phones.
//!
//! Meta may name a person by another form of the number than the one that was sent to ("the prefix may be modified …
//! this is standard behaviour", for Brazil and Mexico; Argentina by reports of users). So code that identifies a person
//! uses [`canonical`], and messages are sent to the number as it was uploaded.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages>, phone
//! number formats, read 2026-11-28; which numbers are mobile, and where the digit stands: libphonenumber 9.0.43,
//! metadata of BR, MX and AR (mobile, and `nationalPrefixTransformRule` of AR); Anatel, resolution 553 (2010), for the
//! ninth digit.

use std::ops::RangeInclusive;

use super::Phone;

/// A plan whose mobile numbers have a longer form: country code, area code, one digit more, and the local number.
///
/// The longer form of every plan has 13 digits and the shorter one 12, so a shorter form is never shortened again.
struct NumberPlan {
    /// The country code, of two digits.
    country: u64,
    /// The digit that only the longer form has.
    digit: u64,
    /// 10 to the power of the number of digits after `digit`.
    behind: u64,
    /// The values of the first digit after `digit` for which both forms of the number belong to the same person.
    first: RangeInclusive<u64>,
}

const LONGER: RangeInclusive<u64> = 1_000_000_000_000..=9_999_999_999_999;

const PLANS: [NumberPlan; 3] = [
    // +55 DD 9 XXXX-XXXX. Before the ninth digit, mobile numbers began with 6 to 9. Newer ones that begin with 91 to 95
    // never had eight digits: without the 9 they would be the number of a landline.
    NumberPlan { country: 55, digit: 9, behind: 100_000_000, first: 6..=9 },
    // +52 1 and ten digits. No area code begins with 0 or 1.
    NumberPlan { country: 52, digit: 1, behind: 10_000_000_000, first: 2..=9 },
    // +54 9 and ten digits. Area codes begin with 1 to 3. A number belongs either to a mobile phone or to a landline.
    NumberPlan { country: 54, digit: 9, behind: 10_000_000_000, first: 1..=3 },
];

impl NumberPlan {
    /// The shorter form of a number in the longer form; `None` for any other number.
    fn shorter(&self, digits: u64) -> Option<u64> {
        let (before, behind) = (digits / self.behind, digits % self.behind);
        let is_longer = before % 10 == self.digit && self.first.contains(&(behind / (self.behind / 10)));
        is_longer.then_some(before / 10 * self.behind + behind)
    }

    /// The number with the additional digit inserted. It is not checked whether such a number exists.
    fn longer(&self, digits: u64) -> Option<u64> {
        let (before, behind) = (digits / self.behind, digits % self.behind);
        before.checked_mul(10)?.checked_add(self.digit)?.checked_mul(self.behind)?.checked_add(behind)
    }
}

/// The form of a number that identifies the person: the shorter one if there are two.
///
/// Two numbers have the same canonical form only if one is the longer form of the other.
pub fn canonical(phone: Phone) -> Phone {
    let digits = phone.digits();
    if !LONGER.contains(&digits) {
        return phone;
    }
    let country = digits / (*LONGER.start() / 10);
    let plan = PLANS.iter().find(|plan| plan.country == country);
    plan.and_then(|plan| Phone::from_digits(plan.shorter(digits)?)).unwrap_or(phone)
}

/// Every number with the same canonical form as `phone`, the canonical one first: at most two.
pub fn forms(phone: Phone) -> impl Iterator<Item = Phone> {
    let folded = canonical(phone);
    let country = folded.digits() / (LONGER.start() / 100);
    let plan = PLANS.iter().find(|plan| plan.country == country);
    let longer = plan.and_then(|plan| Phone::from_digits(plan.longer(folded.digits())?));
    std::iter::once(folded).chain(longer.filter(|longer| canonical(*longer) == folded && *longer != folded))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phone(text: &str) -> Phone {
        text.parse().expect(text)
    }

    /// The longer form of a number, built from texts, independently of the code under test.
    fn longer(phone: Phone) -> Option<Phone> {
        let text = phone.to_string();
        let (head, tail) = match text.get(..3)? {
            _ if text.len() != 13 => return None,
            "+55" => (text.get(..5)?, "9"),
            "+52" => (text.get(..3)?, "1"),
            "+54" => (text.get(..3)?, "9"),
            _ => return None,
        };
        let rest = &text[head.len()..];
        let is_mobile = match head.get(..3)? {
            "+55" => rest.starts_with(['6', '7', '8', '9']),
            "+52" => !rest.starts_with(['0', '1']),
            _ => rest.starts_with(['1', '2', '3']),
        };
        is_mobile.then(|| format!("{head}{tail}{rest}").parse().expect("a number"))
    }

    /// Numbers of the countries with two forms, of every length, and any other numbers.
    fn numbers() -> impl Strategy<Value = Phone> {
        let in_plan = (prop_oneof![Just("52"), Just("54"), Just("55"), Just("521"), Just("549")], "[0-9]{5,12}");
        let brazil = "55[1-9][1-9]9[0-9]{8}".prop_map(|digits| digits.parse().unwrap_or(0));
        let in_plan = in_plan.prop_map(|(country, rest)| format!("{country}{rest}").parse().unwrap_or(0));
        let digits = prop_oneof![in_plan, brazil, 1_000_000_u64..1_000_000_000_000_000];
        digits.prop_filter_map("a number in E.164", Phone::from_digits)
    }

    #[test]
    fn both_forms_of_a_mobile_number_have_one_canonical_form() {
        for (with, without) in [
            ("+5511987654321", "+551187654321"),
            ("+5531971234567", "+553171234567"),
            ("+5215512345678", "+525512345678"),
            ("+5491155550001", "+541155550001"),
            ("+5492215550001", "+542215550001"),
        ] {
            assert_eq!((canonical(phone(with)), canonical(phone(without))), (phone(without), phone(without)), "{with}");
        }
    }

    #[test]
    fn other_numbers_are_their_own_canonical_form() {
        for number in [
            "+551137654321",   // a landline
            "+5511937654321",  // a mobile number that never had eight digits
            "+5511887654321",  // 13 digits, but no 9
            "+5219876543",     // too short
            "+52112345678901", // too long
            "+5211123456789",  // no such area code
            "+5494155550001",  // no such area code
            "+12025550123",
            "+447700900123",
            "+1234567",
        ] {
            assert_eq!(canonical(phone(number)), phone(number), "{number}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_form_is_its_own_canonical_form(number in numbers()) {
            prop_assert_eq!(canonical(canonical(number)), canonical(number));
        }

        #[test]
        fn the_forms_of_a_number_are_all_that_are_folded_with_it(number in numbers()) {
            let all: Vec<Phone> = forms(number).collect();
            let folded = canonical(number);
            let expected: Vec<Phone> = std::iter::once(folded).chain(longer(folded)).collect();
            prop_assert_eq!(&all, &expected);
            prop_assert!(all.contains(&number));
        }

        #[test]
        fn only_the_two_forms_of_a_number_are_folded_together(number in numbers()) {
            let folded = canonical(number);
            prop_assert!(folded == number || longer(folded) == Some(number), "{} became {}", number, folded);
            if let Some(longer) = longer(number) {
                prop_assert_eq!(canonical(longer), number);
            }
        }
    }
}
