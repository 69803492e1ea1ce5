//! The rate of a line: which rate is in force, and how much of it campaigns may use.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/throughput>, read 2026-11-28.

use crate::domain::{LineAllowance, RateSource};

/// What Meta allows on a line that was never upgraded, in messages per second.
const STANDARD: f64 = 80.0;

/// What Meta allows on an upgraded line, in messages per second.
const UPGRADED: f64 = 1_000.0;

/// What Meta allows on a line whose number is also used in the WhatsApp Business app, in messages per second. No line
/// has a lower limit, so this is safe on any line until Meta was asked.
const BUSINESS_APP: f64 = 20.0;

/// The share of their rate that campaigns keep, however many inbound messages there are.
const FLOOR: f64 = 0.1;

/// The room for inbound messages is a multiple of this share of the whole rate. Each change of the rate costs about one
/// message, so small changes are not followed.
const STEP: f64 = 0.02;

/// A rate, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LineRate {
    /// Messages per second, inbound and outbound together.
    pub per_second: f64,
    /// Where it comes from.
    pub source: RateSource,
}

/// What Meta allows on a line with this throughput `level`, which is `None` if Meta did not name one.
pub fn allowance(level: Option<&str>, is_on_biz_app: bool) -> LineAllowance {
    match level {
        _ if is_on_biz_app => LineAllowance::Known(BUSINESS_APP),
        Some("HIGH") => LineAllowance::Known(UPGRADED),
        Some(_) => LineAllowance::Known(STANDARD),
        None => LineAllowance::Unknown,
    }
}

/// The rate in force: an operator's, otherwise the configured one, otherwise what Meta allows.
///
/// Until the allowance is first read from Meta, the lowest rate that Meta allows on any line applies.
pub fn in_force(operator: Option<f64>, configured: Option<f64>, allowance: LineAllowance) -> LineRate {
    let (per_second, source) = match (operator, configured, allowance) {
        (Some(rate), _, _) => (rate, RateSource::Operator),
        (None, Some(rate), _) => (rate, RateSource::Configuration),
        (None, None, LineAllowance::Known(allowed)) => (allowed, RateSource::Meta),
        (None, None, LineAllowance::Unknown) => (STANDARD, RateSource::Default),
        (None, None, LineAllowance::Unasked) => (BUSINESS_APP, RateSource::Default),
    };
    LineRate { per_second, source }
}

/// What the lanes of a line may send, in messages per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LaneRates {
    /// Campaigns.
    pub campaigns: f64,
    /// All lanes together: at least as much as the campaigns.
    pub whole: f64,
}

/// What the lanes may send on a line with this `rate` in force.
///
/// `headroom`: the share of the rate that campaigns leave free, 0 to 0.9. `inbound`: the recent rate of messages from
/// people, which count against what Meta allows. If inbound messages exceed the headroom and Meta's allowance above the
/// rate, the excess is taken from the campaigns. At least a tenth of their rate is left.
pub fn for_lanes(rate: f64, allowance: LineAllowance, headroom: f64, inbound: f64) -> LaneRates {
    let most = rate * (1.0 - headroom);
    // If the configured rate is above the allowance, the operator is assumed to know better.
    let total = match allowance {
        LineAllowance::Known(allowed) => allowed.max(rate),
        LineAllowance::Unknown | LineAllowance::Unasked => rate,
    };
    let outbound = total - inbound_room(total, inbound);
    let campaigns = most.min(outbound).max(most * FLOOR);
    LaneRates { campaigns, whole: rate.min(outbound).max(campaigns) }
}

/// The room for inbound messages: their mean rate and two standard deviations, because they arrive at random, rounded
/// to steps.
fn inbound_room(total: f64, inbound: f64) -> f64 {
    let step = total * STEP;
    ((inbound + 2.0 * inbound.sqrt()) / step).ceil() * step
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_upgrade_allows_more_and_the_business_app_less() {
        let allowed = |level, is_on_biz_app| allowance(level, is_on_biz_app);
        assert_eq!(allowed(Some("STANDARD"), false), LineAllowance::Known(80.0));
        assert_eq!(allowed(Some("NOT_APPLICABLE"), false), LineAllowance::Known(80.0));
        assert_eq!(allowed(Some("HIGH"), false), LineAllowance::Known(1_000.0));
        assert_eq!([Some("HIGH"), None].map(|level| allowed(level, true)), [LineAllowance::Known(20.0); 2]);
        assert_eq!(allowed(None, false), LineAllowance::Unknown);
    }

    #[test]
    fn an_operator_wins_over_the_configuration_and_both_over_meta() {
        let high = LineAllowance::Known(1_000.0);
        let of = |operator, configured, allowance| {
            let LineRate { per_second, source } = in_force(operator, configured, allowance);
            (per_second, source)
        };
        assert_eq!(of(Some(2_000.0), Some(80.0), high), (2_000.0, RateSource::Operator));
        assert_eq!(of(None, Some(80.0), high), (80.0, RateSource::Configuration));
        assert_eq!(of(None, None, high), (1_000.0, RateSource::Meta));
        assert_eq!(of(None, None, LineAllowance::Unknown), (80.0, RateSource::Default));
        assert_eq!(of(None, None, LineAllowance::Unasked), (20.0, RateSource::Default));
    }

    #[test]
    fn inbound_messages_take_what_neither_headroom_nor_allowance_has_room_for() {
        let of = |rate, allowance, inbound| for_lanes(rate, allowance, 0.1, inbound).campaigns.round();
        let standard = LineAllowance::Known(80.0);
        assert_eq!([0.0, 1.0, 3.0].map(|inbound| of(80.0, standard, inbound)), [72.0; 3], "the headroom is enough");
        assert_eq!(of(80.0, standard, 20.0), 50.0, "20 and two standard deviations, rounded up to a step");
        assert_eq!(of(80.0, standard, 200.0), 7.0, "a tenth is left");
        assert_eq!(of(40.0, standard, 20.0), 36.0, "the rate is far below the allowance");
        assert_eq!(of(40.0, LineAllowance::Unknown, 20.0), 10.0);
        assert_eq!(of(200.0, standard, 0.0), 180.0, "an operator may exceed the allowance");
    }

    /// Every allowance that Meta may or may not have reported.
    fn allowances() -> impl Strategy<Value = LineAllowance> {
        prop_oneof![
            Just(LineAllowance::Unasked),
            Just(LineAllowance::Unknown),
            prop::sample::select(vec![20.0, 80.0, 1_000.0]).prop_map(LineAllowance::Known),
        ]
    }

    proptest! {
        #[test]
        fn campaigns_and_inbound_messages_together_stay_within_the_total(
            operator in prop::option::of(0.01..2_000.0),
            configured in prop::option::of(0.01..2_000.0),
            allowance in allowances(),
            headroom in 0.0..0.9,
            inbound in 0.0..3_000.0,
            more in 0.0..100.0,
        ) {
            let rate = in_force(operator, configured, allowance).per_second;
            let most = rate * (1.0 - headroom);
            let LaneRates { campaigns, whole } = for_lanes(rate, allowance, headroom, inbound);
            prop_assert!(campaigns <= whole && whole <= rate);
            prop_assert!(campaigns <= most && campaigns >= most * FLOOR);
            let total = match allowance {
                LineAllowance::Known(allowed) if operator.or(configured).is_none_or(|rate| rate <= allowed) => allowed,
                _ => rate,
            };
            prop_assert!(whole + inbound <= total + 1e-6 || campaigns == most * FLOOR);
            prop_assert_eq!(for_lanes(rate, allowance, headroom, 0.0), LaneRates { campaigns: most, whole: rate });
            prop_assert!(for_lanes(rate, allowance, headroom, inbound + more).campaigns <= campaigns);
        }
    }
}
