//! Problems as rustc draws its own.
//!
//! Owns the look. Refuses to read files: a problem carries its line, already masked.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::problem::{Place, Problem, Problems, Severity};

/// All problems with a picture each, a blank line between, and a newline at the end; empty if there are none.
pub fn render(problems: &Problems, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for problem in &problems.list {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&with_true_column(renderer.render(&[picture(problem)]), problem));
        text.push('\n');
    }
    text
}

fn picture(problem: &Problem) -> Group<'_> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let file = problem.place.file.as_str();
    let mut group = Group::with_title(level.primary_title(problem.message.as_str()).id(problem.code));
    group = match &problem.quote {
        Some(quote) => {
            let annotation = AnnotationKind::Primary.span(quote.mark.clone()).label(problem.label.as_deref());
            let line = Snippet::source(quote.text.as_str()).line_start(problem.place.line).path(file);
            group.element(line.annotation(annotation))
        }
        None => group.element(Origin::path(file)),
    };
    if let Some(other) = &problem.other {
        let text = format!("the other place is {}:{}:{}", other.file, other.line, other.col);
        group = group.element(Level::NOTE.message(text));
    }
    if let Some(hint) = &problem.hint {
        group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
    }
    group
}

/// The renderer counts columns in the line as it is shown, which differ from the file's where something before was masked.
fn with_true_column(drawn: String, problem: &Problem) -> String {
    let Some(quote) = &problem.quote else { return drawn };
    let Place { file, line, col } = &problem.place;
    let shown_col = quote.text[..quote.mark.start].chars().count() + 1;
    let shown = format!("{file}:{line}:{shown_col}");
    match drawn.find("-->").and_then(|arrow| Some(arrow + drawn[arrow..].find(&shown)?)) {
        Some(at) if shown_col != *col => {
            format!("{}{file}:{line}:{col}{}", &drawn[..at], &drawn[at + shown.len()..])
        }
        _ => drawn,
    }
}
