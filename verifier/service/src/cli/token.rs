//! `verifier token`: who may use the API, and what for.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{
    USAGE,
    service::{Failure, Service, finish},
    show::{Row, cell, table},
};
use crate::{
    http::{
        INIT,
        api::{CreateTokenJson, NewTokenJson, TokenJson, TokenRevokedJson, TokensJson},
    },
    store::Role,
};

/// Makes, lists and ends tokens of the HTTP API
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Makes a token and shows it, this once
    Create {
        #[command(flatten)]
        service: Service,
        /// Whose it is: stands in the history of what its holder does [default: the role and a number drawn]
        name: Option<String>,
        /// What it is good for: reader (look), operator (act on devices), administrator (tokens and keys too)
        #[arg(long)]
        role: String,
    },
    /// Ends a token, or all of one role
    Revoke {
        #[command(flatten)]
        service: Service,
        /// Whose it is
        #[arg(required_unless_present = "role")]
        name: Option<String>,
        /// Only if it has this role; without a name, all that have it
        #[arg(long)]
        role: Option<String>,
    },
    /// Lists tokens: whose, what for, last used on which day
    List {
        #[command(flatten)]
        service: Service,
    },
}

pub(super) fn run(args: &TokenArgs) -> ExitCode {
    finish((|| {
        match &args.command {
            TokenCommand::Create { service, name, role } => create(service, name.as_deref(), role_of(role)?)?,
            TokenCommand::Revoke { service, name, role } => {
                revoke(service, name.as_deref(), role.as_deref().map(role_of).transpose()?)?;
            }
            TokenCommand::List { service } => {
                service.show(&service.client()?.get("/v1/tokens")?, tokens_text)?;
            }
        }
        Ok(0)
    })())
}

fn role_of(name: &str) -> Result<Role, Failure> {
    Role::from_name(name)
        .ok_or_else(|| Failure(format!("`{name}` is no role: reader, operator or administrator"), USAGE))
}

/// Names go into paths.
fn checked(name: &str) -> Result<&str, Failure> {
    let legal = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if !name.is_empty() && name.len() <= crate::limits::MAX_TOKEN_NAME && name.bytes().all(legal) {
        return Ok(name);
    }
    Err(Failure(format!("`{name}` is no token's name: 1 to 32 lower-case letters, digits, `.`, `_` and `-`"), USAGE))
}

fn create(service: &Service, name: Option<&str>, role: Role) -> Result<(), Failure> {
    let name = match name {
        Some(name) => checked(name)?.to_owned(),
        None => format!("{}-{}", role.name(), drawn()?),
    };
    let body = CreateTokenJson { name, role };
    let answer = service.client()?.post("/v1/tokens", &body, Duration::ZERO)?;
    // The token alone, so that it can go straight into a file.
    service.show(&answer, |new: &NewTokenJson| format!("{}\n", new.token))?;
    if !service.json {
        let name = &body.name;
        eprintln!("token `{name}` ({}): it is shown this once; put it into a file of mode 0600", role.name());
    }
    Ok(())
}

fn drawn() -> Result<String, Failure> {
    let mut random = [0; 4];
    let drawn = SystemRandom::new().fill(&mut random);
    drawn.map_err(|_| Failure("the system's random number generator gives nothing".to_owned(), 1))?;
    Ok(HEXLOWER.encode(&random))
}

fn revoke(service: &Service, name: Option<&str>, role: Option<Role>) -> Result<(), Failure> {
    let client = service.client()?;
    let names = match (name, role) {
        (Some(name), None) => vec![checked(name)?.to_owned()],
        (name, role) => {
            let known: TokensJson =
                serde_json::from_slice(&client.get("/v1/tokens")?).unwrap_or(TokensJson { tokens: vec![] });
            let meant = |token: &TokenJson| match name {
                Some(name) => token.name == name,
                // That of the installation ends with its file.
                None => token.name != INIT,
            };
            let of_role = known.tokens.into_iter().filter(|token| role.is_none_or(|role| token.role == role));
            of_role.filter(meant).map(|token| token.name).collect()
        }
    };
    if names.is_empty() {
        let named = name.map(|name| format!(" named `{name}`")).unwrap_or_default();
        let with = role.map(|role| format!(" with the role `{}`", role.name())).unwrap_or_default();
        return Err(Failure(format!("there is no token{named}{with} to revoke"), USAGE));
    }
    for name in names {
        let answer = client.post(&format!("/v1/tokens/{name}/revoke"), &serde_json::json!({}), Duration::ZERO)?;
        service.show(&answer, |gone: &TokenRevokedJson| format!("revoked {}\n", gone.name))?;
    }
    Ok(())
}

fn tokens_text(tokens: &TokensJson) -> String {
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |token: &TokenJson| -> Row {
        vec![cell(&token.name), cell(token.role.name()), cell(dash(&token.created)), cell(dash(&token.last_used))]
    };
    table(&["TOKEN", "ROLE", "CREATED", "LAST USED"], tokens.tokens.iter().map(row).collect())
}
