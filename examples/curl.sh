#!/bin/sh
# The server from a shell: curl alone.
set -eu
URL="${TOMTAT_URL:-http://localhost:8400/v1}"
KEY="${TOMTAT_KEY:-none}"
CHAT_MODEL="${TOMTAT_CHAT_MODEL:-qwen3}"
SUMMARIZER="${TOMTAT_SUMMARIZER:-chats}"

tomtat() { # a path, then what curl takes
    path="$1"
    shift
    curl --silent --show-error --fail-with-body "$URL$path" \
        -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" "$@"
    echo
}

echo "models:"
tomtat /models

echo "summary:"
tomtat /summaries -d '{"model": "'"$SUMMARIZER"'", "input": "Nina: Monday is off, I am ill. Omar: Get well! Friday at 14:30?"}'

echo "turns kept:"
tomtat /conversations -d '{"id": "from-curl", "items": [{"role": "user", "content": "My order LM-48213 came cracked."}]}'

echo "chat:"
tomtat /chat/completions -i -H "X-Conversation-Id: from-curl" -H "X-Conversation-Turns: new" \
    -d '{"model": "'"$CHAT_MODEL"'", "messages": [{"role": "user", "content": "Which order was it?"}]}'

echo "stream:"
tomtat /chat/completions --no-buffer -H "X-Conversation-Id: from-curl" -H "X-Conversation-Turns: new" \
    -d '{"model": "'"$CHAT_MODEL"'", "stream": true, "messages": [{"role": "user", "content": "Sure?"}]}'

echo "found:"
tomtat '/conversations/from-curl/search?query=cracked'

echo "erased:"
tomtat /conversations/from-curl -X DELETE
