//! `/simulator/…`: faults, actions and the request log for programs that run the simulator from outside.

use std::sync::Arc;

use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use serde_json::{Value, json};

use super::auth;
use crate::{
    fault::{Action, Fault},
    http::{self, Body},
    refusal::{Asked, Refusal},
    world::{User, World},
};

/// `POST faults` orders faults (`kind`) and actions (`action`), one or an array; `DELETE faults` withdraws the
/// faults that are left; `GET requests` tells what came. Only for those who may do everything.
pub(super) async fn handle(
    world: &Arc<World>,
    user: &User,
    what: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let asked = Asked { group: "simulator", plural: "faults", subresource: "", namespace: None, name: "" };
    auth::check(user, "update", &asked)?;
    match (request.method(), what) {
        (&Method::POST, "faults") => {
            let body = http::read(request.into_body())
                .await
                .map_err(|error| Refusal::bad_request(error.to_string()))?;
            let value: Value =
                serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(error.to_string()))?;
            let orders = match value {
                Value::Array(orders) => orders,
                order => vec![order],
            };
            for order in orders {
                place(world, order).map_err(|error| Refusal::bad_request(error.to_string()))?;
            }
            Ok(http::json(StatusCode::OK, &json!({})))
        }
        (&Method::DELETE, "faults") => {
            world.lock().faults.clear();
            Ok(http::json(StatusCode::OK, &json!({})))
        }
        (&Method::GET, "requests") => {
            let requests = serde_json::to_value(world.log.requests()).unwrap_or_default();
            Ok(http::json(StatusCode::OK, &requests))
        }
        _ => Err(Refusal::no_such_path()),
    }
}

fn place(world: &Arc<World>, order: Value) -> serde_json::Result<()> {
    if order.get("action").is_some() {
        crate::control::actions::act(world, serde_json::from_value::<Action>(order)?);
    } else {
        world.lock().faults.add(serde_json::from_value::<Fault>(order)?);
    }
    Ok(())
}
