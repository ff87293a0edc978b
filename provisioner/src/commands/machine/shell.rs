//! Shells, and how each sets and unsets a variable.

/// A shell that `berth env` writes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    /// Any POSIX shell
    #[value(aliases = ["dash", "ksh", "ash"])]
    Sh,
    Fish,
    #[value(aliases = ["csh"])]
    Tcsh,
    #[value(aliases = ["pwsh"])]
    Powershell,
    Cmd,
    Emacs,
    #[value(aliases = ["nushell"])]
    Nu,
}

impl Shell {
    /// The one that runs us, else `$SHELL`, else what the system must have.
    pub(super) fn running() -> Self {
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero());
        let parent = parent.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        let shell = std::env::var("SHELL").unwrap_or_default();
        [parent.as_deref().unwrap_or_default(), &shell]
            .iter()
            .find_map(|program| Self::by_program(program.trim()))
            .unwrap_or(if cfg!(windows) { Self::Cmd } else { Self::Sh })
    }

    fn by_program(program: &str) -> Option<Self> {
        let name = program.rsplit(['/', '\\']).next()?.trim_start_matches('-');
        Some(match name.trim_end_matches(".exe") {
            "bash" => Self::Bash,
            "zsh" => Self::Zsh,
            "sh" | "dash" | "ksh" | "ash" | "mksh" => Self::Sh,
            "fish" => Self::Fish,
            "tcsh" | "csh" => Self::Tcsh,
            "pwsh" | "powershell" => Self::Powershell,
            "cmd" => Self::Cmd,
            "emacs" => Self::Emacs,
            "nu" => Self::Nu,
            _ => return None,
        })
    }

    /// A line that sets a variable.
    pub(super) fn set(self, name: &str, value: &str) -> String {
        match self {
            Self::Bash | Self::Zsh | Self::Sh => format!("export {name}={}\n", quote_posix(value)),
            Self::Fish => format!("set -gx {name} '{}';\n", value.replace('\\', "\\\\").replace('\'', "\\'")),
            // History is expanded within either kind of quotes.
            Self::Tcsh => format!("setenv {name} '{}';\n", value.replace('\'', "'\\''").replace('!', "\\!")),
            Self::Powershell => format!("$Env:{name} = '{}'\n", value.replace('\'', "''")),
            Self::Cmd => format!("SET {name}={value}\n"),
            Self::Emacs => {
                format!("(setenv \"{name}\" \"{}\")\n", value.replace('\\', "\\\\").replace('"', "\\\""))
            }
            Self::Nu => format!("$env.{name} = {}\n", serde_json::Value::from(value)),
        }
    }

    /// A line that takes it away.
    pub(super) fn unset(self, name: &str) -> String {
        match self {
            Self::Bash | Self::Zsh | Self::Sh => format!("unset {name}\n"),
            Self::Fish => format!("set -e {name};\n"),
            Self::Tcsh => format!("unsetenv {name};\n"),
            Self::Powershell => format!("Remove-Item Env:\\{name} -ErrorAction SilentlyContinue\n"),
            Self::Cmd => format!("SET {name}=\n"),
            Self::Emacs => format!("(setenv \"{name}\" nil)\n"),
            Self::Nu => format!("hide-env --ignore-errors {name}\n"),
        }
    }

    /// A line that the shell passes over.
    pub(super) fn comment(self, text: &str) -> String {
        let sign = match self {
            Self::Cmd => "REM",
            Self::Emacs => ";;",
            _ => "#",
        };
        format!("{sign} {text}\n")
    }

    /// What to type so that the lines take effect; `command` is what writes them.
    pub(super) fn advice(self, command: &str) -> String {
        let command = match self {
            Self::Bash | Self::Zsh | Self::Sh => format!("eval \"$({command})\""),
            Self::Fish => format!("{command} --shell fish | source"),
            Self::Tcsh => format!("eval `{command} --shell tcsh`"),
            Self::Powershell => format!("& {command} --shell powershell | Invoke-Expression"),
            Self::Cmd => format!("@FOR /f \"tokens=*\" %i IN ('{command} --shell cmd') DO @%i"),
            Self::Emacs => {
                format!("(with-temp-buffer (shell-command \"{command} --shell emacs\" t) (eval-buffer))")
            }
            Self::Nu => format!("{command} --shell nu | save -f env.nu; source env.nu"),
        };
        // tcsh joins the lines of a command's output: a comment would hide what follows, and is written by nobody else.
        if self == Self::Tcsh {
            return String::new();
        }
        self.comment("To set up this shell, run:") + &self.comment(&command)
    }
}

/// A value as one word of a POSIX shell.
pub(super) fn quote_posix(value: &str) -> String {
    format!(
        "\"{}\"",
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_each_shell() {
        let nasty = "a'b\"c$d`e\\!";
        for (shell, line) in [
            (Shell::Bash, "export X=\"a'b\\\"c\\$d\\`e\\\\!\"\n"),
            (Shell::Fish, "set -gx X 'a\\'b\"c$d`e\\\\!';\n"),
            (Shell::Powershell, "$Env:X = 'a''b\"c$d`e\\!'\n"),
            (Shell::Tcsh, "setenv X 'a'\\''b\"c$d`e\\\\!';\n"),
            (Shell::Emacs, "(setenv \"X\" \"a'b\\\"c$d`e\\\\!\")\n"),
            (Shell::Nu, "$env.X = \"a'b\\\"c$d`e\\\\!\"\n"),
        ] {
            assert_eq!(shell.set("X", nasty), line, "{shell:?}");
        }
    }

    #[test]
    fn a_shell_is_known_by_its_program() {
        for (program, shell) in [
            ("-bash", Some(Shell::Bash)),
            ("/usr/bin/fish", Some(Shell::Fish)),
            ("C:\\x\\pwsh.exe", Some(Shell::Powershell)),
            ("dash", Some(Shell::Sh)),
            ("make", None),
        ] {
            assert_eq!(Shell::by_program(program), shell, "{program}");
        }
    }
}
