//! What happens in the week, drawn from a seed: campaigns and their times, actions of Meta, and failures.

use std::{collections::HashMap, ops::Range, time::Duration};

use pregon::sim::{Scenario, scenario::ContactHours};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

pub const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const SLOTS: usize = 14;

/// The WABAs whose businesses have no messaging limit. They get nine tenths of the messages.
const UNLIMITED: [&str; 5] = ["2001", "2002", "2003", "2004", "2005"];

/// Lines with at most this rate have a number that is also used in the Business app. They get small campaigns of their
/// own, so that they do not delay the others.
const BUSINESS_APP_RATE: u32 = 20;

/// The days and hours at which marketing may be sent to the people of two businesses, by the time in Argentina. The
/// hours are shorter than the pauses between campaigns, so that some campaigns have to wait.
const DAYS: [&str; 6] = ["mon", "tue", "wed", "thu", "fri", "sat"];
const HOURS: (&str, &str) = ("08:00", "14:00");
const ZONE: &str = "America/Argentina/Buenos_Aires";

/// The business for whose people Pregón has contact hours.
const WITH_CONTACT_HOURS: &str = "1002";
/// The business whose campaigns have a send window, and its WABA.
const WITH_SEND_WINDOW: (&str, &str) = ("1004", "2004");

/// The plan of a week.
pub struct Plan {
    pub seed: u64,
    pub scenario: Scenario,
    /// Pregón's `[[contact_hours]]`, as TOML.
    pub contact_hours: String,
    /// In chronological order.
    pub moments: Vec<Moment>,
}

/// Campaigns and other actions at one time.
pub struct Moment {
    /// The time since the beginning of the week.
    pub at: Duration,
    /// The campaigns that are launched together at that time.
    pub campaigns: Vec<Audience>,
    /// What happens after a share of those campaigns' messages was sent, in ascending order of the share.
    pub meanwhile: Vec<(f64, Happening)>,
}

/// A campaign and its recipients.
pub struct Audience {
    pub template: &'static str,
    pub lines: Vec<String>,
    pub people: People,
    pub send_window: Option<Value>,
}

pub enum People {
    Numbers(Range<u64>),
    /// The people from whom Meta withheld marketing of the WABA more than a day ago (131049).
    Withheld,
}

/// An action of Meta, an operator or people, or a failure.
#[derive(Debug)]
pub enum Happening {
    /// The quality of a template becomes red, so Meta pauses it.
    Red {
        waba: &'static str,
        template: &'static str,
    },
    /// The quality of a template and of a line becomes yellow.
    Yellow {
        waba: &'static str,
        template: &'static str,
        line: &'static str,
    },
    /// An operator lifts the pause of a template.
    Unpause {
        waba: &'static str,
        template: &'static str,
    },
    /// The WABA may not start conversations for a day.
    Restrict {
        waba: &'static str,
    },
    Ban {
        business: &'static str,
    },
    Reinstate {
        business: &'static str,
    },
    /// The messaging limit of a business becomes 2,000.
    RaiseLimit {
        business: &'static str,
    },
    /// The rate of a line becomes 1,000 a second.
    Upgrade {
        line: &'static str,
    },
    /// Meta throttles this share of a line's sends, although the line keeps to its rate.
    Throttle {
        line: &'static str,
        share: f64,
    },
    /// People write a text to a line.
    Write {
        line: &'static str,
        text: &'static str,
        people: Range<u64>,
    },
    /// People stop marketing in WhatsApp.
    Stop {
        line: &'static str,
        people: Range<u64>,
    },
    KillWorker(usize),
    RestartRedis,
    RedisLosesPower,
}

/// The lines of a scenario by WABA.
struct Lines<'s> {
    /// Lines with a rate above [`BUSINESS_APP_RATE`].
    fast: HashMap<&'s str, Vec<String>>,
    slow: HashMap<&'s str, Vec<String>>,
}

/// Allocates phone numbers, from a separate range for each business.
struct Numbers {
    next: HashMap<String, u64>,
}

impl Numbers {
    /// `n` numbers that no campaign has used.
    fn fresh(&mut self, business: &str, n: u64) -> Range<u64> {
        let first = numbers_of(business);
        let next = self.next.entry(business.to_owned()).or_insert(first + SHARED);
        let fresh = *next..*next + n;
        *next += n;
        fresh
    }

    /// The numbers of people who stop marketing. Group 0 does so in WhatsApp, group 1 by a stop word.
    fn stopping(business: &str, group: u64) -> Range<u64> {
        let first = numbers_of(business) + SHARED - (2 - group) * STOPPING;
        first..first + STOPPING
    }

    /// The first `n` numbers of the business, which several campaigns share.
    fn shared(business: &str, n: u64) -> Range<u64> {
        let first = numbers_of(business);
        first..first + n.min(SHARED - 2 * STOPPING)
    }
}

/// How many people stop marketing in each way.
pub const STOPPING: u64 = 20;

/// How many people get more marketing campaigns than the cap of their business allows.
pub const CAPPED: u64 = 60;

/// The WABA whose business has a frequency cap.
const CAPPED_WABA: &str = "2002";

/// How many numbers of each business are shared by several campaigns.
const SHARED: u64 = 1_000_000;

fn numbers_of(business: &str) -> u64 {
    let business: u64 = business.parse().expect("a number");
    5_491_100_000_000 + (business - 1_000) * 10 * SHARED
}

impl Plan {
    /// A week with about this many sends.
    pub fn draw(seed: u64, sends: u64) -> Self {
        let mut scenario = Scenario::named("week").expect("it comes with the program");
        scenario.seed = seed;
        scenario.referee.contact_hours = [WITH_CONTACT_HOURS, WITH_SEND_WINDOW.0].map(refereed).into();
        let mut rng = StdRng::seed_from_u64(seed);
        let lines = Lines::of(&scenario);
        let per_line = lines.messages_of_each(sends);
        let mut moments = slots(&lines, per_line, sends);
        meta_acts(&mut moments, per_line);
        breakdowns(&mut moments, &mut rng);
        for moment in &mut moments {
            moment.meanwhile.sort_by(|one, other| one.0.total_cmp(&other.0));
        }
        moments.extend(later());
        moments.sort_by_key(|moment| moment.at);
        Self { seed, scenario, contact_hours: contact_hours(), moments }
    }
}

/// The prefix that all numbers of a business have, and no others.
fn prefix(business: &str) -> String {
    (numbers_of(business) / (10 * SHARED)).to_string()
}

/// The hours of a business, as the referee's configuration.
fn refereed(business: &str) -> ContactHours {
    let hours = format!("{}-{}", HOURS.0, HOURS.1);
    let days: HashMap<&str, String> = DAYS.into_iter().map(|day| (day, hours.clone())).collect();
    serde_json::from_value(json!({"prefix": prefix(business), "zone": ZONE, "days": days})).expect("contact hours")
}

/// The hours of [`WITH_CONTACT_HOURS`], as Pregón's configuration.
fn contact_hours() -> String {
    let days: String = DAYS.into_iter().map(|day| format!("{day} = \"{}-{}\"\n", HOURS.0, HOURS.1)).collect();
    let prefix = prefix(WITH_CONTACT_HOURS);
    format!("[[contact_hours]]\nname = \"hours\"\nsource = \"a law\"\nprefixes = [\"{prefix}\"]\n{days}")
}

/// The campaigns: two start times a day. `per_line`: the messages of each line without a messaging limit.
fn slots(lines: &Lines<'_>, per_line: u64, sends: u64) -> Vec<Moment> {
    let mut numbers = Numbers { next: HashMap::new() };
    let at = |slot: usize| DAY * (slot as u32 / 2) + HOUR * if slot.is_multiple_of(2) { 10 } else { 17 };
    let mut moments: Vec<Moment> =
        (0..SLOTS).map(|slot| Moment { at: at(slot), campaigns: Vec::new(), meanwhile: Vec::new() }).collect();
    for (slot, moment) in moments.iter_mut().enumerate() {
        for (index, waba) in UNLIMITED.into_iter().enumerate() {
            let business = format!("1{}", &waba[1..]);
            let n = per_line * lines.fast[waba].len() as u64;
            let template = ["order_update", "spring_sale", "login_code"][(slot + index) % 3];
            // With shared numbers, more people than [`CAPPED`] would reach the cap.
            let is_capped = template == "spring_sale" && waba == CAPPED_WABA;
            let people = if is_capped { numbers.fresh(&business, n) } else { Numbers::shared(&business, n) };
            moment.campaigns.push(lines.campaign(waba, template, people));
        }
        let slow = Audience {
            lines: lines.slow["2002"].clone(),
            ..lines.campaign("2002", "order_update", Numbers::shared("1002", 24))
        };
        moment.campaigns.push(slow);
        for (waba, business) in [("2007", "1007"), ("2008", "1008")] {
            if slot % 4 == 1 {
                moment.campaigns.push(lines.campaign(waba, "order_update", numbers.fresh(business, sends / 100)));
            }
        }
    }
    // More people than the limits allow: the rest get their message on the next day. The limit of 10,000 is reached
    // only in weeks of more than 500,000 sends.
    let more_than_10k = (sends / 100).min(7_000);
    moments[4].campaigns.push(lines.campaign("2006", "order_update", numbers.fresh("1006", more_than_10k)));
    moments[4].campaigns.push(lines.campaign("2013", "order_update", numbers.fresh("1006", more_than_10k)));
    moments[2].campaigns.push(lines.campaign("2009", "spring_sale", numbers.fresh("1009", 2_300)));
    moments[6].campaigns.push(lines.campaign("2010", "order_update", numbers.fresh("1010", 320)));
    moments[0].campaigns.push(lines.campaign("2011", "order_update", numbers.fresh("1011", 320)));
    moments[1].campaigns.push(lines.campaign("2012", "spring_sale", numbers.fresh("1012", 320)));
    // Two campaigns at once on one line, to the same people.
    for slot in [0, 8] {
        for template in ["order_update", "login_code"] {
            let mut campaign = lines.campaign("2008", template, Numbers::shared("1008", 40));
            campaign.lines.truncate(1);
            moments[slot].campaigns.push(campaign);
        }
    }
    // Templates with pacing.
    moments[2].campaigns.push(lines.campaign("2001", "new_arrivals", numbers.fresh("1001", 300)));
    moments[3].campaigns.push(lines.campaign("2003", "club_offer", numbers.fresh("1003", 300)));
    // Campaigns to the people who stop marketing, before and after they do.
    let (in_whatsapp, by_word) = (Numbers::stopping("1001", 0), Numbers::stopping("1001", 1));
    for (slot, template) in [(0, "order_update"), (4, "spring_sale"), (8, "order_update"), (10, "spring_sale")] {
        moments[slot].campaigns.push(lines.campaign("2001", template, in_whatsapp.start..by_word.end));
    }
    // Marketing to the same people, more than a day apart. The cap allows two messages in seven days.
    for slot in [5, 8, 11] {
        moments[slot].campaigns.push(lines.campaign(CAPPED_WABA, "spring_sale", Numbers::shared("1002", CAPPED)));
    }
    // Marketing to the people of a campaign of less than a day before. Meta has withheld it from some of them.
    for slot in [2, 5, 8, 11] {
        let again = Numbers::shared("1001", per_line * lines.fast["2001"].len() as u64);
        moments[slot].campaigns.push(lines.campaign("2001", "spring_sale", again));
    }
    // A campaign to people who have just written.
    let mut answer = lines.campaign("2012", "order_update", Numbers::shared("1012", 20));
    answer.lines.truncate(1);
    moments[2].campaigns.push(answer);
    for waba in UNLIMITED {
        let again = Audience { people: People::Withheld, ..lines.campaign(waba, "spring_sale", 0..0) };
        moments[13].campaigns.push(again);
    }
    moments
}

/// Actions of Meta while campaigns are sent.
fn meta_acts(moments: &mut [Moment], per_line: u64) {
    // A small share, because each throttled send slows the line down.
    let throttled = (20.0 / per_line as f64).min(0.5);
    let template = "order_update";
    for (slot, share, happening) in [
        (0, 0.3, Happening::Red { waba: "2001", template }),
        (3, 0.4, Happening::Red { waba: "2001", template }),
        (4, 0.3, Happening::Restrict { waba: "2004" }),
        (6, 0.3, Happening::Ban { business: "1005" }),
        (7, 0.2, Happening::Yellow { waba: "2002", template, line: "3006" }),
        (8, 0.2, Happening::Upgrade { line: "3003" }),
        (9, 0.2, Happening::Throttle { line: "3011", share: throttled }),
        (10, 0.0, Happening::Throttle { line: "3011", share: 0.0 }),
    ] {
        moments[slot].meanwhile.push((share, happening));
    }
}

/// Failures while campaigns are sent.
fn breakdowns(moments: &mut [Moment], rng: &mut StdRng) {
    for slot in [1, 3, 5, 7, 9, 11] {
        let happening = match slot {
            1 | 9 => Happening::KillWorker(rng.random_range(1..=2)),
            5 => Happening::KillWorker(0),
            3 => Happening::RestartRedis,
            _ => Happening::RedisLosesPower,
        };
        moments[slot].meanwhile.push((rng.random_range(0.2..0.7), happening));
    }
}

/// Actions between the campaigns.
fn later() -> Vec<Moment> {
    let at =
        |hours: u32, happening| Moment { at: HOUR * hours, campaigns: Vec::new(), meanwhile: vec![(0.0, happening)] };
    vec![
        at(24 + 9, Happening::Write { line: "3043", text: "Hola", people: Numbers::shared("1012", 20) }),
        at(24 + 8, Happening::Stop { line: "3001", people: Numbers::stopping("1001", 0) }),
        at(24 + 8, Happening::Write { line: "3001", text: "BAJA", people: Numbers::stopping("1001", 1) }),
        at(24 + 17 + 2, Happening::Unpause { waba: "2003", template: "club_offer" }),
        at(2 * 24 + 12, Happening::RaiseLimit { business: "1011" }),
        at(3 * 24 + 10 + 5, Happening::Reinstate { business: "1005" }),
    ]
}

impl<'s> Lines<'s> {
    fn of(scenario: &'s Scenario) -> Self {
        let (mut fast, mut slow) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for line in &scenario.lines {
            let map = if line.messages_per_second > BUSINESS_APP_RATE { &mut fast } else { &mut slow };
            map.entry(line.waba.as_str()).or_default().push(line.id.clone());
        }
        Self { fast, slow }
    }

    /// How many messages each fast line without a messaging limit sends in one slot of a week with `sends` messages.
    fn messages_of_each(&self, sends: u64) -> u64 {
        let n: usize = UNLIMITED.iter().map(|waba| self.fast[waba].len()).sum();
        sends * 9 / 10 / (n * SLOTS) as u64
    }

    /// A campaign on all fast lines of the WABA.
    fn campaign(&self, waba: &str, template: &'static str, people: Range<u64>) -> Audience {
        let window = json!({"from": HOURS.0, "to": HOURS.1, "days": DAYS, "zone": "recipient"});
        let send_window = (waba == WITH_SEND_WINDOW.1).then_some(window);
        Audience { template, lines: self.fast[waba].clone(), people: People::Numbers(people), send_window }
    }
}
