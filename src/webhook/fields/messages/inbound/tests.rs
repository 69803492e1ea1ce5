use std::{collections::BTreeSet, fs, path::Path, slice};

use super::*;
use crate::{
    domain::{
        MetaCode,
        inbound::{
            CallPermission, Choice, Content, FormReply, Media, MediaKind, Order, OrderItem, Organization, RawJson,
            Reaction, SharedContact, SharedLocation, SharedPhone, SystemNotice, Tap,
        },
    },
    webhook::{fields::WebhookChange, payload::Payload},
};

/// The messages of a webhook that has only messages.
fn messages(body: &str) -> Vec<Inbound> {
    let mut payload = Payload::read(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
    match payload.entries.remove(0).changes.remove(0) {
        WebhookChange::Messages(messages) => messages.inbound.into_iter().map(|message| *message).collect(),
        other => panic!("{other:?}"),
    }
}

/// The single message in `messages`, given as JSON together with `contacts`.
fn message(contacts: &str, message: &str) -> Inbound {
    let value = format!(r#"{{"metadata":{{"phone_number_id":"1"}},"contacts":{contacts},"messages":[{message}]}}"#);
    let mut messages = messages(&format!(r#"{{"entry":[{{"changes":[{{"value":{value},"field":"messages"}}]}}]}}"#));
    assert_eq!(messages.len(), 1, "{messages:?}");
    messages.remove(0)
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn wamid(id: &str) -> Option<Wamid> {
    Some(Wamid::from(id))
}

/// A message as in most of the fixtures.
fn inbound(content: Content) -> Inbound {
    let (number, user_id, name) = (some("5491155550103"), some("AR.1A2b"), some("José"));
    let sender = Sender { number, user_id, name, username: some("jose.x"), ..Sender::default() };
    Inbound { id: wamid("wamid.IN"), at: Some(UnixMs(1_795_300_042_000)), sender, content, ..Inbound::default() }
}

/// A message of a person without an entry in `contacts`.
fn without_profile(content: Content) -> Inbound {
    let mut inbound = inbound(content);
    (inbound.sender.name, inbound.sender.username) = (None, None);
    inbound
}

/// A message that answers ours.
fn reply(content: Content) -> Inbound {
    let context = Context { message: wamid("wamid.OUT"), from: some("5491155550001"), ..Context::default() };
    Inbound { context: Some(Box::new(context)), ..inbound(content) }
}

fn text(body: &str) -> Content {
    Content::Text(body.to_owned())
}

fn media(kind: MediaKind, mime_type: &str) -> Media {
    let (id, sha256, url) = (some("6001"), some("pI2s+uQ="), some("https://lookaside.x.test/6001"));
    Media { kind, id, sha256, url, mime_type: some(mime_type), ..Media::default() }
}

fn json(text: &str) -> Option<RawJson> {
    Some(serde_json::from_str(text).expect("JSON"))
}

/// What each file of `tests/fixtures/webhooks/inbound` says.
fn expected() -> Vec<(&'static str, Inbound)> {
    vec![
        ("text", inbound(text("¿A qué hora abren? 🙂"))),
        ("text_without_number", {
            let mut inbound = inbound(text("Hola"));
            (inbound.sender.number, inbound.sender.parent_user_id) = (None, some("AR.ENT.9"));
            inbound
        }),
        ("text_in_a_group", {
            let mut inbound = without_profile(text("Hola a todos"));
            (inbound.sender.parent_user_id, inbound.group) = (some("AR.ENT.9"), some("Y2FwaV9ncm91cDox"));
            inbound
        }),
        ("text_forwarded", {
            let context = Context { forwarded: true, frequently_forwarded: true, ..Context::default() };
            Inbound { context: Some(Box::new(context)), ..inbound(text("Reenviado")) }
        }),
        ("text_about_a_product", {
            let mut inbound = reply(text("¿Hay en azul?"));
            let product = Product { catalog: some("7001"), retailer_id: some("sku-1") };
            inbound.context.as_mut().expect("a context").product = Some(product);
            inbound
        }),
        ("text_from_an_ad", {
            let referral = Referral {
                source_url: some("https://fb.me/1a2b"),
                source_id: some("8001"),
                source_type: some("ad"),
                headline: some("Primavera"),
                body: some("Todo a mitad de precio"),
                media_type: some("image"),
                media_url: some("https://x.test/ad.jpg"),
                thumbnail_url: some("https://x.test/ad-small.jpg"),
                click_id: some("Aff-1a2b"),
                welcome_message: some("¡Hola!"),
            };
            Inbound { referral: Some(Box::new(referral)), ..inbound(text("Quiero saber más")) }
        }),
        ("button", reply(Content::Tap(Box::new(Tap { payload: some("c42:stop"), text: some("Basta") })))),
        ("button_reply", {
            let choice = Choice { id: some("yes"), title: some("Sí"), description: None };
            reply(Content::ButtonReply(Box::new(choice)))
        }),
        ("list_reply", {
            let choice = Choice { id: some("row-1"), title: some("Envío"), description: some("En 24 horas") };
            reply(Content::ListReply(Box::new(choice)))
        }),
        ("form_reply", {
            let response = some(r#"{"flow_token":"t","email":"a@x.test"}"#);
            let form = FormReply { name: some("flow"), body: some("Sent"), response };
            reply(Content::FormReply(Box::new(form)))
        }),
        ("call_permission", {
            let permission = CallPermission {
                response: some("accept"),
                is_permanent: false,
                until: Some(UnixMs(1_795_904_842_000)),
                source: some("user_action"),
            };
            reply(Content::CallPermission(Box::new(permission)))
        }),
        ("interactive_unknown", {
            let json = json(r#"{"type": "seat_reply", "seat_reply": {"row": 7, "seat": "A"}}"#);
            reply(Content::Other { kind: "interactive".into(), json })
        }),
        ("image", {
            let image = Media { caption: some("Mi pedido"), ..media(MediaKind::Image, "image/jpeg") };
            inbound(Content::Media(Box::new(image)))
        }),
        ("video", inbound(Content::Media(Box::new(media(MediaKind::Video, "video/mp4"))))),
        ("audio", {
            let audio = Media { is_voice: true, ..media(MediaKind::Audio, "audio/ogg; codecs=opus") };
            inbound(Content::Media(Box::new(audio)))
        }),
        ("document", {
            let (filename, caption) = (some("factura.pdf"), some("La factura"));
            let document = Media { filename, caption, ..media(MediaKind::Document, "application/pdf") };
            inbound(Content::Media(Box::new(document)))
        }),
        ("sticker", {
            let sticker = Media { is_animated: true, ..media(MediaKind::Sticker, "image/webp") };
            inbound(Content::Media(Box::new(sticker)))
        }),
        ("location", {
            let location = SharedLocation {
                latitude: some("-34.60372222"),
                longitude: some("-58.3815931"),
                name: some("Obelisco"),
                address: some("Av. 9 de Julio"),
                url: some("https://x.test/obelisco"),
            };
            inbound(Content::Location(Box::new(location)))
        }),
        ("contacts", {
            let work =
                SharedPhone { number: some("+54 9 11 5555-0104"), wa_id: some("5491155550104"), kind: some("WORK") };
            let organization = Organization { company: some("Acme"), department: some("Ventas"), title: some("Jefa") };
            let contact = SharedContact {
                name: some("Ana Díaz"),
                phones: vec![work, SharedPhone { number: some("555"), ..SharedPhone::default() }],
                organization: Some(Box::new(organization)),
                origin: some("other"),
                vcard: some("BEGIN:VCARD\nEND:VCARD"),
            };
            inbound(Content::Contacts(vec![contact]))
        }),
        ("reaction", {
            inbound(Content::Reaction(Box::new(Reaction { message: wamid("wamid.OUT"), emoji: some("👍") })))
        }),
        ("reaction_removed", {
            inbound(Content::Reaction(Box::new(Reaction { message: wamid("wamid.OUT"), emoji: None })))
        }),
        ("order", {
            let item = |id: &str, quantity: &str, price: &str| OrderItem {
                retailer_id: some(id),
                quantity: some(quantity),
                price: some(price),
                currency: some("ARS"),
            };
            let items = vec![item("sku-1", "2", "1250.5"), item("sku-2", "1", "0.10")];
            let order = Order { catalog: some("7001"), text: some("Sin sal"), items };
            inbound(Content::Order(Box::new(order)))
        }),
        ("number_changed", {
            let notice = SystemNotice {
                kind: some("user_changed_number"),
                body: some("José cambió de número"),
                number: some("5491155550199"),
                user_id: some("AR.3C4d"),
                previous_user_id: some("AR.1A2b"),
            };
            without_profile(Content::System(Box::new(notice)))
        }),
        ("user_id_changed", {
            let notice = SystemNotice {
                kind: some("user_changed_user_id"),
                user_id: some("AR.3C4d"),
                previous_user_id: some("AR.1A2b"),
                ..SystemNotice::default()
            };
            let mut inbound = without_profile(Content::System(Box::new(notice)));
            inbound.sender.number = None;
            inbound
        }),
        ("unsupported", {
            let text = "Message type is currently not supported.".into();
            let errors = vec![InboundError { code: Some(MetaCode(131_051)), text }];
            Inbound { errors, ..inbound(Content::Unsupported { kind: some("poll_creation") }) }
        }),
        ("edit", {
            let image = Media {
                kind: MediaKind::Image,
                id: some("6001"),
                mime_type: some("image/jpeg"),
                caption: some("Mi pedido, corregido"),
                ..Media::default()
            };
            let content = Box::new(Content::Media(Box::new(image)));
            inbound(Content::Edit { original: wamid("wamid.IN0"), content })
        }),
        ("revoke", inbound(Content::Revoke { original: wamid("wamid.IN0") })),
        ("unknown_type", {
            let json = json(r#"{"question": "\u00bfCu\u00e1ndo?", "options": [["lunes", 1], ["martes", 2.5]]}"#);
            inbound(Content::Other { kind: "poll".into(), json })
        }),
    ]
}

#[test]
fn every_type_is_parsed_in_full_and_survives_its_document() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/webhooks/inbound");
    let files = fs::read_dir(&folder).expect("a folder").map(|file| file.expect("a file").path());
    let mut left: BTreeSet<_> = files.collect();
    for (name, expected) in expected() {
        let path = folder.join(name).with_extension("json");
        let body = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(messages(&body), slice::from_ref(&expected), "{name}");
        let document = serde_json::to_string(&expected).expect("a document");
        assert_eq!(serde_json::from_str::<Inbound>(&document).expect(&document), expected, "{name}");
        left.remove(&path);
    }
    assert!(left.is_empty(), "fixtures without an expectation: {left:?}");
}

#[test]
fn a_content_in_another_form_is_kept_as_it_is() {
    for (kind, object) in [
        ("text", "7"),
        ("text", r#"{"body":null}"#),
        ("image", r#""photo""#),
        ("contacts", r#"[7,{}]"#),
        ("contacts", r#"{"name":"Ana"}"#),
        ("interactive", r#"{"type":"button_reply","button_reply":7}"#),
        ("edit", "[]"),
        ("from", r#""5491155550103""#),
        ("poll", r#"{"a":1e999,"a":[[[]]]}"#),
    ] {
        for message_json in [
            format!(r#"{{"id":"wamid.IN","type":"{kind}","{kind}":{object}}}"#),
            format!(r#"{{"{kind}":{object},"type":"{kind}","id":"wamid.IN"}}"#),
        ] {
            let read = message("[]", &message_json);
            let expected = Content::Other { kind: kind.into(), json: json(object) };
            assert_eq!((read.id, read.content), (wamid("wamid.IN"), expected), "{message_json}");
        }
    }
    for message_json in [r#"{"id":"wamid.IN","type":"poll"}"#, r#"{"id":"wamid.IN","type":"poll","poll":null}"#] {
        assert_eq!(message("[]", message_json).content, Content::Other { kind: "poll".into(), json: None });
    }
}

#[test]
fn a_member_of_any_type_affects_only_itself() {
    let members = [
        "from",
        "from_user_id",
        "group_id",
        "timestamp",
        "context",
        "referral",
        "errors",
        "image",
        "location",
        "unknown",
    ];
    for member in members {
        for junk in ["null", "true", "-7", "1.5", "1e999", r#""""#, "[]", "[[{}]]", r#"{"id":{},"from":[],"a":7}"#] {
            let json = format!(r#"{{"id":"wamid.IN","{member}":{junk},"type":"text","text":{{"body":"Hola"}}}}"#);
            let read = message(junk, &json);
            assert_eq!((read.id, read.content), (wamid("wamid.IN"), text("Hola")), "{json}");
        }
    }
}

#[test]
fn a_tap_counts_without_a_type() {
    for (json, payload) in [
        (r#"{"button":{"payload":"c42"}}"#, Some("c42")),
        (r#"{"type":7,"interactive":{"button_reply":{"id":"c42"}}}"#, Some("c42")),
        (r#"{"type":"interactive","interactive":{"list_reply":{"id":7}}}"#, Some("7")),
        (r#"{"type":"button","button":{"text":"c42"}}"#, None),
        (r#"{"type":"text","text":{"body":"c42"}}"#, None),
    ] {
        assert_eq!(message("[]", json).payload(), payload, "{json}");
    }
}

#[test]
fn an_edit_of_an_edit_is_not_followed() {
    let edit = r#"{"original_message_id":"wamid.B","message":{"type":"text"}}"#;
    let json_of = format!(
        r#"{{"type":"edit","edit":{{"original_message_id":"wamid.A","message":{{"type":"edit","edit":{edit}}}}}}}"#
    );
    let inner = Content::Other { kind: "edit".into(), json: json(edit) };
    let expected = Content::Edit { original: wamid("wamid.A"), content: Box::new(inner) };
    assert_eq!(message("[]", &json_of).content, expected);
}

#[test]
fn a_profile_belongs_to_the_sender_with_its_id_or_number() {
    let contacts = r#"[7,{"profile":{"name":"A"},"wa_id":1},{"profile":{"name":"B"},"user_id":"AR.B","wa_id":"2"},
        {"profile":"C","wa_id":"3","user_id":"AR.C"}]"#;
    for (sender, number, user_id, name) in [
        (r#""from":"1""#, some("1"), None, some("A")),
        (r#""from":"2""#, some("2"), some("AR.B"), some("B")),
        (r#""from":"1","from_user_id":"AR.B""#, some("1"), some("AR.B"), some("B")),
        (r#""from":"3""#, some("3"), some("AR.C"), None),
        (r#""from":"4""#, some("4"), None, None),
        (r#""id":"wamid.IN""#, None, None, None),
    ] {
        let read = message(contacts, &format!(r#"{{{sender},"type":"text","text":{{"body":""}}}}"#));
        assert_eq!(read.sender, Sender { number, user_id, name, ..Sender::default() }, "{sender}");
    }
}
