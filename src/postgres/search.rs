//! Searches for words in the names and numbers of contacts, by their index.

use sqlx::{PgConnection, PgPool, PgTransaction};

/// Number of messages or contacts from which a search looks for its words in the rows of the list instead.
pub(super) const HITS_MAX: i64 = 30_000;

/// Maximum number of words in a search, and of characters of each. What is beyond is ignored.
const WORDS_MAX: usize = 8;
const WORD_CHARS_MAX: usize = 64;

/// Minimum number of digits in a search that is for one number, however it is written.
const DIGITS_MIN: usize = 5;

/// The words of a search, each as the beginning of a word, in the syntax of PostgreSQL's `to_tsquery`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchWords(String);

impl SearchWords {
    /// The words, in the syntax of `to_tsquery`.
    pub(super) fn query(&self) -> &str {
        &self.0
    }

    /// The words of a text; `None` if there are none. Digits that are written as a phone number are one word.
    pub fn of(text: &str) -> Option<Self> {
        let is_number = text.chars().all(|c| c.is_ascii_digit() || " +-.()".contains(c));
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        if is_number && digits.len() >= DIGITS_MIN {
            return Some(Self(format!("{digits}:*")));
        }
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(WORDS_MAX);
        let begins = |word: &str| word.chars().take(WORD_CHARS_MAX).chain(":*".chars()).collect::<String>();
        let words: Vec<String> = words.map(begins).collect();
        (!words.is_empty()).then(|| Self(words.join(" & ")))
    }
}

/// Begins a transaction whose statements find words by their indexes.
pub(super) async fn begin_search(pool: &PgPool) -> sqlx::Result<PgTransaction<'static>> {
    let mut transaction = pool.begin().await?;
    // A plan for any words would be a bad one for most.
    sqlx::query!("set local plan_cache_mode = force_custom_plan").execute(&mut *transaction).await?;
    // The planner underrates what the words of a row cost, and prefers to compute them for all rows.
    sqlx::query!("set local enable_seqscan = off").execute(&mut *transaction).await?;
    Ok(transaction)
}

/// The ids of all contacts of businesses (`None`: of all) that have the words; `None` if there are [`HITS_MAX`] or more.
pub(super) async fn people(
    search: &mut PgConnection,
    businesses: Option<&[String]>,
    words: &SearchWords,
) -> sqlx::Result<Option<Vec<i64>>> {
    let people = sqlx::query_scalar!(
        "select id from contacts
         where contact_words(name, username, number) @@ to_tsquery('simple', folded($2))
            and ($1::text[] is null or business = any($1))
         limit $3",
        businesses,
        words.query(),
        HITS_MAX
    );
    let people = people.fetch_all(search).await?;
    Ok((people.len() < HITS_MAX as usize).then_some(people))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_for_words_that_begin_so_or_for_one_number() {
        for (text, query) in [
            ("María gonz", Some("María:* & gonz:*")),
            ("+54 9 11 5555-0001", Some("5491155550001:*")),
            ("4711", Some("4711:*")),
            ("12 34", Some("12:* & 34:*")),
            ("a' | !b:C\\", Some("a:* & b:* & C:*")),
            (" ¿? ", None),
        ] {
            assert_eq!(SearchWords::of(text), query.map(|query| SearchWords(query.to_owned())), "{text}");
        }
    }
}
