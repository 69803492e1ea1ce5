//! Test sends: the message of a campaign to a few numbers now, as a small campaign of its own.
//!
//! A test is sent like any campaign, so the same guarantees apply.
//!
//! If the process dies: the test is a draft with or without its numbers, and sends nothing. A repetition with the same
//! `external_id` completes it.

use std::{collections::HashSet, hash::Hasher as _, time::Duration};

use siphasher::sip::SipHasher24;
use ulid::Ulid;

use super::{
    CampaignAction, Intake, IntakeError, Submitted,
    submit::{NAME_CHARS_MAX, check_external_id},
};
use crate::{
    api_types::{NewTest, TemplateName, UploadResult},
    domain::{Campaign, CampaignId, CampaignState, LineId, Person, Phone, Recipient, State},
    redis::{StoreError, campaigns::CampaignRecord},
};

/// The maximum number of phone numbers of a test.
const NUMBERS_MAX: usize = 10;

/// The priority of a test: the highest.
const PRIORITY: u8 = 10;

/// How long a test may wait, for example for a hold to end. A message that arrives later would surprise its reader.
const EXPIRES_AFTER: Duration = Duration::from_secs(3_600);

impl Intake {
    /// Sends the message of a campaign that has not ended to the numbers of `test`, with the values of its first
    /// recipients. The result is durable, as far as [`Store::make_durable`](crate::redis::Store::make_durable) can
    /// confirm it.
    ///
    /// Errors: `Invalid`, `Template`, `State`, `Empty`, `NobodyLeft`, or `Conflict` or `Taken` if another campaign has
    /// the `external_id`: nothing was sent. `Store`: repeat the call.
    pub async fn send_test(&self, id: CampaignId, test: &NewTest) -> Result<Submitted, IntakeError> {
        let intake = self.in_this_incarnation();
        let submitted = intake.send_test_undurably(id, test).await?;
        intake.store.make_durable().await?;
        Ok(submitted)
    }

    async fn send_test_undurably(&self, of: CampaignId, test: &NewTest) -> Result<Submitted, IntakeError> {
        check(test)?;
        let existing = match &test.external_id {
            Some(external_id) => self.find(external_id).await?,
            None => None,
        };
        let (id, created) = match existing {
            Some(record) => (record.campaign.id, false),
            None => self.store.create_campaign(&self.test_of(of, test).await?).await?,
        };
        let mut record = self.campaign(id).await?;
        self.check_is_own(&record.campaign)?;
        if record.campaign.test_of != Some(of) {
            let there = record.campaign.test_of.map_or("none".to_owned(), |there| there.to_string());
            return Err(conflict(id, test, format!("test_of is {there} there and {of} here")));
        }
        let upload = self.upload_numbers(&record, of, test).await?;
        if record.state == CampaignState::Draft {
            record = self.change(id, CampaignAction::Launch).await?.0;
        }
        Ok(Submitted { id, created, state: record.state, upload })
    }

    /// The test as a campaign.
    ///
    /// Errors: `State` or `Template` if the campaign `of` can't be sent.
    async fn test_of(&self, of: CampaignId, test: &NewTest) -> Result<Campaign, IntakeError> {
        let record = self.campaign(of).await?;
        let (campaign, state) = (record.campaign, record.state);
        if matches!(state, CampaignState::Completed | CampaignState::Cancelled) {
            return Err(IntakeError::State { id: of, state, action: "be tested any more" });
        }
        if self.first_recipients(of, 1).await?.is_empty() {
            return Err(if record.numbers == 0 { IntakeError::Empty(of) } else { IntakeError::NobodyLeft(of) });
        }
        let listed = self.lines.get();
        if let Some(line) = listed.first_of(&campaign.lines) {
            let (name, language) = (campaign.template.name.clone(), campaign.template.language.as_str().to_owned());
            self.check_template(&line.waba, &TemplateName { name, language }).await?;
        }
        self.check_template_still_fits(&campaign).await?;
        let lines: Vec<LineId> = campaign.lines.iter().filter(|line| listed.by_id(line).is_some()).cloned().collect();
        if lines.is_empty() {
            let problem = format!("none of the lines of campaign {of} is configured any more: configure one of them");
            return Err(IntakeError::Invalid(vec![problem]));
        }
        let now = self.clock.now();
        let id = CampaignId(Ulid::from_parts(now.0, rand::random()));
        let name: String = format!("Test of {}", campaign.name).chars().take(NAME_CHARS_MAX).collect();
        Ok(Campaign {
            external_id: test.external_id.clone(),
            test_of: Some(of),
            priority: PRIORITY,
            expires_at: Some(now.after(EXPIRES_AFTER)),
            opt_out_buttons: campaign.opt_out_buttons,
            reply: campaign.reply,
            ..Campaign::new(id, name, campaign.template, lines, now)
        }
        .with_requirements())
    }

    /// Stores the numbers of `test` in its campaign.
    async fn upload_numbers(
        &self,
        record: &CampaignRecord,
        of: CampaignId,
        test: &NewTest,
    ) -> Result<UploadResult, IntakeError> {
        let digest = digest(&test.to);
        loop {
            match self.upload_fitted(record, &digest, async || self.recipients(of, &test.to).await).await {
                // Another connection makes the same call. The loop ends, because the other one has progressed.
                Err(IntakeError::UploadInProgress) => {}
                Err(IntakeError::UploadConflict) => {
                    return Err(conflict(record.campaign.id, test, "numbers are others".to_owned()));
                }
                result => return result,
            }
        }
    }

    /// The recipients of a test of the campaign `of`: `numbers` with the values of its first recipients.
    async fn recipients(&self, of: CampaignId, numbers: &[Phone]) -> Result<Vec<Recipient>, IntakeError> {
        let samples = self.first_recipients(of, numbers.len()).await?;
        if samples.is_empty() {
            return Err(IntakeError::NobodyLeft(of));
        }
        let values = samples.into_iter().map(|recipient| recipient.values).cycle();
        Ok(numbers.iter().zip(values).map(|(&to, values)| Recipient { to, values }).collect())
    }

    /// The first recipients of a campaign who were not erased, at most `n`, by part and row.
    async fn first_recipients(&self, id: CampaignId, n: usize) -> Result<Vec<Recipient>, StoreError> {
        let Some(record) = self.store.campaign(id).await? else { return Ok(Vec::new()) };
        let mut first = Vec::new();
        for (part, _) in record.parts {
            let states = self.store.state_bytes(part).await?;
            let is_recipient = |byte: u8| State::of(byte).is_some();
            for start in self.store.chunks_with(part, &states, is_recipient).await? {
                let chunk = self.store.chunks(part, &[start]).await?;
                let rows = states.iter().skip(usize::from(start)).enumerate();
                let rows = rows.filter(|(_, byte)| is_recipient(**byte)).map(|(row, _)| row);
                let recipients = rows.filter_map(|row| chunk.first()?.recipient(row));
                first.extend(recipients.take(n - first.len()));
                if first.len() == n {
                    return Ok(first);
                }
            }
        }
        Ok(first)
    }
}

/// Errors: `Invalid`.
fn check(test: &NewTest) -> Result<(), IntakeError> {
    let mut problems = Vec::new();
    let n = test.to.len();
    if !(1..=NUMBERS_MAX).contains(&n) {
        problems.push(format!("to has {n} numbers: it must have 1 to {NUMBERS_MAX}"));
    }
    let mut people = HashSet::new();
    if !test.to.iter().all(|&to| people.insert(Person::from(to))) {
        problems.push("to names a person twice: leave one of the numbers out".to_owned());
    }
    check_external_id(test.external_id.as_deref(), &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(IntakeError::invalid(problems)) }
}

fn conflict(id: CampaignId, test: &NewTest, difference: String) -> IntakeError {
    let external_id = test.external_id.clone().unwrap_or_default();
    IntakeError::Conflict { id, external_id, differences: vec![difference] }
}

/// A digest of the numbers of a test, in their order.
fn digest(numbers: &[Phone]) -> String {
    let mut digest = SipHasher24::new();
    for number in numbers {
        digest.write(&number.digits().to_le_bytes());
    }
    format!("{:016x}", digest.finish())
}
