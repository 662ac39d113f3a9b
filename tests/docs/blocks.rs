//! The fenced blocks of a document.

/// A block: its language, its text and its place.
pub(crate) struct Block {
    /// The word after the opening fence.
    pub(crate) language: String,
    /// The lines between the fences.
    pub(crate) text: String,
    /// File and line, for error messages.
    pub(crate) place: String,
}

/// A command of a `console` block with its output.
pub(crate) struct Command {
    /// The prompt: `#` on the gateway as root, `$` on the server.
    pub(crate) prompt: char,
    /// The command line.
    pub(crate) line: String,
    /// Its output.
    pub(crate) output: String,
}

impl Block {
    /// The commands of a `console` block.
    pub(crate) fn commands(&self) -> Vec<Command> {
        let mut commands: Vec<Command> = Vec::new();
        for line in self.text.lines() {
            let typed = line.strip_prefix("# ").map(|typed| ('#', typed));
            match (typed.or_else(|| line.strip_prefix("$ ").map(|typed| ('$', typed))), commands.last_mut()) {
                (Some((prompt, typed)), _) => {
                    commands.push(Command { prompt, line: typed.to_owned(), output: String::new() });
                }
                (None, Some(command)) => command.output += &format!("{line}\n"),
                (None, None) => panic!("{}: a console block begins with `# ` or `$ `: {line}", self.place),
            }
        }
        commands
    }
}

/// All blocks of a document, in order.
pub(crate) fn blocks(name: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(Block, usize)> = None;
    for (number, line) in text.lines().enumerate() {
        // A block in a list is indented.
        let bare = line.trim_start();
        assert!(!bare.starts_with("~~~"), "{name}:{}: fences are written as ```", number + 1);
        match (bare.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                let place = format!("{name}:{}", number + 1);
                let block = Block { language: language.to_owned(), text: String::new(), place };
                open = Some((block, line.len() - bare.len()));
            }
            (Some(_), Some((block, _))) => blocks.push(block),
            (None, Some((mut block, indent))) => {
                block.text += &format!("{}\n", line.get(indent..).unwrap_or_default());
                open = Some((block, indent));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: the last block does not end");
    blocks
}

/// The text without its blocks.
pub(crate) fn prose(text: &str) -> String {
    let mut inside = false;
    let kept = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// The comparable part of an output: without white space, and without numbers other than 0, 1 and addresses.
pub(crate) fn normalized(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        shown += &rest[..start];
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number = rest[..end].trim_end_matches('.');
        // A concurrent reader of an entry counts as a user of it.
        let exact = number.parse::<std::net::Ipv4Addr>().is_ok() || ["0", "1"].contains(&number);
        shown += if exact && !shown.ends_with("use=") { number } else { "#" };
        rest = &rest[number.len()..];
    }
    shown + rest
}

/// Whether an output matches what a document shows, where `…` matches anything.
pub(crate) fn is_shown_as(output: &str, shown: &str) -> bool {
    let (output, shown) = (normalized(output), normalized(shown));
    let mut parts = shown.split('…');
    let Some(mut rest) = output.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        let found = if parts.peek().is_none() { rest.rfind(part) } else { rest.find(part) };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}
