//! Log lines on stderr: time, level, text. The service manager's journal adds the rest.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Starts logging. Libraries speak from warnings upward, unless debugging.
pub(crate) fn start(level: LevelFilter) {
    let libraries = level.min(LevelFilter::WARN);
    let mut filter = EnvFilter::default().add_directive(libraries.into());
    for room in [
        "hostd",
        "hostd_api",
        "hostd_engine",
        "hostd_image",
        "hostd_network",
        "hostd_runtime",
        "hostd_volume",
    ] {
        if let Ok(directive) = format!("{room}={level}").parse() {
            filter = filter.add_directive(directive);
        }
    }
    tracing_subscriber::fmt()
        .compact()
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
}
