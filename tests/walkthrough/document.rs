//! The steps of the document.

/// A step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Commands, which succeed.
    Run(String),
    /// Commands that may be repeated, and lines that they print sooner or later, in this order.
    Shows { commands: String, lines: Vec<String> },
    /// The alerts that fire once the state has lasted, and no others.
    Fires(Vec<String>),
}

/// The blocks of commands, what they print, and the alerts that the document names.
pub(super) fn steps(document: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match (language, steps.pop()) {
                ("text", Some(Step::Run(commands))) => {
                    let lines = block.into_iter().map(str::to_owned).collect();
                    steps.push(Step::Shows { commands, lines });
                }
                ("sh", before) => {
                    steps.extend(before);
                    steps.push(Step::Run(block.join("\n")));
                }
                (other, before) => panic!("a block of {other} after {before:?}"),
            }
        } else if let Some(alerts) = line.strip_prefix("**Fires:** ") {
            let names = alerts.split('[').skip(1).filter_map(|link| Some(link.split_once(']')?.0.to_owned()));
            let names: Vec<String> = names.collect();
            assert_eq!(names.is_empty(), alerts == "nothing.", "{line}");
            steps.push(Step::Fires(names));
        }
    }
    steps
}

/// Whether each of `lines` is a line of `printed`, in this order. Blanks count as one, and … as any text.
pub(super) fn matches(lines: &[String], printed: &str) -> bool {
    let mut printed = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.iter().all(|line| printed.any(|printed| is_like(line, &printed)))
}

fn is_like(pattern: &str, line: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('…') else { return pattern == line };
    let Some(line) = line.strip_prefix(start) else { return false };
    line.char_indices().map(|(at, _)| at).chain([line.len()]).any(|at| is_like(rest, &line[at..]))
}

#[test]
fn an_ellipsis_stands_for_any_text() {
    for (pattern, line, expected) in [
        ("200", "200", true),
        ("200", "2000", false),
        ("id …", "id 7", true),
        ("… held …", "3001 held 40/s", true),
        ("… held …", "3001 sending 40/s", false),
        ("a…c", "a b c", true),
        ("a…c", "a b", false),
    ] {
        assert_eq!(is_like(pattern, line), expected, "{pattern}: {line}");
    }
}
