// Builds the message to a recipient: the same as in ../rust/src/lib.rs.

export const message = ({ to, values }) =>
  JSON.stringify({
    messaging_product: 'whatsapp',
    recipient_type: 'individual',
    to,
    type: 'template',
    template: {
      name: 'order_update',
      language: { code: 'es_AR' },
      components: [{ type: 'body', parameters: values.map((text) => ({ type: 'text', text })) }],
    },
    biz_opaque_callback_data: `p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.0.${to.slice(6)}.1.0123456789abcdef`,
  });
