//! Lists of names in sentences for people.

/// The names with commas between them, at most `max` of them: `3001, 3002 and 7 more`.
pub fn listed<N: AsRef<str>>(names: impl IntoIterator<Item = N>, max: usize) -> String {
    let mut names = names.into_iter();
    let shown: Vec<N> = names.by_ref().take(max).collect();
    let shown = shown.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    match names.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_says_how_many_names_it_leaves_out() {
        assert_eq!(listed(["a", "b"], 2), "a, b");
        assert_eq!(listed(["a", "b", "c", "d"], 2), "a, b and 2 more");
        assert_eq!(listed::<&str>([], 2), "");
    }
}
