#!/usr/bin/env bash
# curl against running servers: curl.sh PROGRAM FOLDER TEXTS IMAGES MODEL IMAGE.
# FOLDER has the adapters of the servers at TEXTS and IMAGES, MODEL is the base of the latter, and IMAGE a file for it. The
# first asks for a key before a change, the second before anything.
set -euo pipefail
program=$1 work=$2 texts=$3 images=$4 model_folder=$5 image=$6
admin=(--header "Authorization: Bearer $CLIENTS_ADMIN_KEY")
key=(--header "Authorization: Bearer $CLIENTS_API_KEY")
json=(--header "Content-Type: application/json")
prompt=$(head -1 "$work/val.txt")
prompt=${prompt%%||*}

# ask STATUS ARGUMENTS...: curl with these arguments has to be answered so; the body is left in $work/answer.
ask() {
    local status=$1 found
    shift
    asked="curl $*"
    found=$(curl --silent --show-error --no-buffer --max-time 60 --output "$work/answer" --dump-header "$work/head" \
        --write-out '%{http_code}' "$@") || wrong "curl failed with code $?"
    [ "$found" = "$status" ] || wrong "status $found, not $status"
}

wrong() {
    printf 'FAILED line %s: %s\n> %s\n< ' "${BASH_LINENO[-2]}" "$1" "$asked" >&2
    cat "$work/head" "$work/answer" >&2
    exit 1
}

# value EXPRESSION: what a Python expression gives for the JSON of the answer, `a`.
value() {
    python3 -c 'import json, sys; a = json.load(open(sys.argv[1])); print(eval(sys.argv[2]), end="")' "$work/answer" "$1"
}

# is EXPRESSION EXPECTED
is() {
    local found
    found=$(value "$1") || wrong "the answer has no $1"
    [ "$found" = "$2" ] || wrong "$1 is \`$found\`, not \`$2\`"
}

# has TEXT [FILE]
has() { grep -qiF -- "$1" "${2:-$work/answer}" || wrong "there is no \`$1\` in the answer"; }

ok() { printf 'ok %s\n' "$1"; }

# A body with the prompt, a model and more fields.
wanted() {
    local more=${2:-}
    [ -n "$more" ] || more='{}'
    python3 -c 'import json, sys
print(json.dumps({"model": sys.argv[1], "prompt": sys.argv[2], "max_tokens": 12, "temperature": 0, **json.loads(sys.argv[3])}))' \
        "$1" "$prompt" "$more"
}

for path in / /health /openapi.json /metrics; do
    ask 200 "$texts$path"
done
has "text/plain" "$work/head"
has "nola_texts_running"
ask 200 "$texts/openapi.json"
is 'a["openapi"][:3]' 3.1
ask 200 "$texts/"
has "text/html" "$work/head"
ok "pages"

ask 200 "$texts/v1/completions" "${json[@]}" --data "$(wanted museum)"
has "content-type: application/json" "$work/head"
whole=$(value 'a["choices"][0]["text"]'; printf .)
ask 200 "$texts/v1/completions" "${json[@]}" --data "$(wanted museum '{"stream": true}')"
has "content-type: text/event-stream" "$work/head"
[ "$(grep -v '^$' "$work/answer" | tail -1)" = "data: [DONE]" ] || wrong "the stream does not end with data: [DONE]"
[ "$(grep -c '^data: {' "$work/answer")" -gt 2 ] || wrong "the stream has no parts"
! grep -v '^$' "$work/answer" | grep -qv '^data: ' || wrong "the stream has lines that are no data"
streamed=$(grep '^data: {' "$work/answer" | python3 -c 'import json, sys
print("".join(json.loads(line[6:])["choices"][0]["text"] for line in sys.stdin), end=".")')
[ "$streamed" = "$whole" ] || wrong "the streamed text is \`$streamed\`, not \`$whole\`"
ok "a completion, whole and as a stream"

messages='{"model": "museum", "messages": [{"role": "user", "content": "a shield"}], "max_tokens": 8, "temperature": 0'
ask 200 "$texts/v1/chat/completions" "${json[@]}" --data "$messages}"
is 'a["choices"][0]["message"]["role"]' assistant
whole=$(value 'a["choices"][0]["message"]["content"]'; printf .)
ask 200 "$texts/v1/chat/completions" "${json[@]}" --data "$messages, \"stream\": true}"
[ "$(grep -v '^$' "$work/answer" | tail -1)" = "data: [DONE]" ] || wrong "the stream does not end with data: [DONE]"
streamed=$(grep '^data: {' "$work/answer" | python3 -c 'import json, sys
print("".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in sys.stdin), end=".")')
[ "$streamed" = "$whole" ] || wrong "the streamed text is \`$streamed\`, not \`$whole\`"
ok "a chat, whole and as a stream"

# The first part comes before the last is made: head takes it, and curl then fails at a pipe that nobody reads.
asked="curl of a stream that is left early"
first=$(curl --silent --no-buffer --max-time 60 "$texts/v1/completions" "${json[@]}" \
    --data "$(wanted base '{"stream": true, "n": 50, "max_tokens": 100, "temperature": 1}')" | head -1 || true)
case $first in "data: {"*) ;; *) wrong "it begins with \`$first\`" ;; esac
ask 200 "$texts/v1/completions" "${json[@]}" --data "$(wanted museum)"
ok "a stream that is left early"

error='a["error"]["code"]'
ask 404 "$texts/v1/completions" "${json[@]}" --data "$(wanted nobody)"
is "$error" model_not_found
ask 400 "$texts/v1/completions" "${json[@]}" --data '{'
is "$error" invalid_json
ask 415 "$texts/v1/completions" --data "$(wanted museum)"
is "$error" unsupported_media_type
ask 405 "$texts/v1/completions"
is "$error" method_not_allowed
has "allow: POST" "$work/head"
ask 404 "$texts/v1/nothing"
is "$error" not_found
head -c 5000000 /dev/zero >"$work/large"
ask 413 "$texts/v1/completions" "${json[@]}" --data-binary "@$work/large"
is "$error" request_too_large
ask 403 "$texts/v1/models" --header "Origin: https://example.org"
is "$error" forbidden_origin
ok "what is wrong is said"

load=("${json[@]}" "$texts/v1/load_lora_adapter")
unload=("${json[@]}" "$texts/v1/unload_lora_adapter")
spare='{"lora_name": "spare", "lora_path": "shelf/spare"'
ask 200 "$texts/v1/completions" "${json[@]}" --data "$(wanted museum)"
whole=$(value 'a["choices"][0]["text"]'; printf .)
ask 401 "${load[@]}" --data "$spare}"
is "$error" invalid_api_key
ask 401 "${load[@]}" --data "$spare}" --header "Authorization: Bearer another-key"
ask 404 "$texts/v1/completions" "${json[@]}" --data "$(wanted spare)"
ask 200 "${load[@]}" "${admin[@]}" --data "$spare}"
has "Success: LoRA adapter 'spare' added successfully."
ask 200 "$texts/v1/completions" "${json[@]}" --data "$(wanted spare)"
[ "$(value 'a["choices"][0]["text"]'; printf .)" = "$whole" ] || wrong "the text is not \`$whole\`"
ask 200 "$texts/v1/models"
is '[model["id"] for model in a["data"]]' "['base', 'exhibit', 'museum', 'spare']"
ask 400 "${load[@]}" "${admin[@]}" --data "$spare}"
is "$error" adapter_already_loaded
ask 200 "${load[@]}" "${admin[@]}" --data "$spare, \"load_inplace\": true}"
ask 404 "${load[@]}" "${admin[@]}" --data '{"lora_name": "outside", "lora_path": "/etc"}'
is "$error" adapter_not_found
ask 400 "${load[@]}" "${admin[@]}" --data '{"lora_name": "outside", "lora_path": "../runs/museum/adapter"}'
is "$error" invalid_adapter
ask 401 "${unload[@]}" --data '{"lora_name": "spare"}'
ask 200 "${unload[@]}" "${admin[@]}" --data '{"lora_name": "spare"}'
has "Success: LoRA adapter 'spare' removed successfully."
ask 404 "$texts/v1/completions" "${json[@]}" --data "$(wanted spare)"
ask 404 "${unload[@]}" "${admin[@]}" --data '{"lora_name": "spare"}'
is "$error" model_not_found
ok "adapters are loaded and unloaded under vLLM's names"

adapter=$texts/v1/adapters/spare
put=(--request PUT "${admin[@]}" "${json[@]}" "$adapter" --data '{"path": "shelf/spare"}')
ask 201 "${put[@]}" --header "If-None-Match: *"
ask 409 "${put[@]}" --header "If-None-Match: *"
is "$error" generation_conflict
ask 200 "$adapter"
tag=$(sed -n 's/^etag: \(.*\)\r$/\1/Ip' "$work/head")
ask 200 "${put[@]}" --header "If-Match: $tag"
ask 409 --request DELETE "${admin[@]}" "$adapter" --header "If-Match: $tag"
ask 401 --request DELETE "$adapter"
ask 204 --request DELETE "${admin[@]}" "$adapter"
ask 404 "$adapter"
ok "adapters change only from the generation that was named"

classify=$images/v1/images/classify
ask 401 "$classify" --form model=lora --form "image=@$image"
is "$error" invalid_api_key
for model in lora nola; do
    predicted=$("$program" predict --device cpu --model "$model_folder" --adapter "$work/images/$model" "$image" --top 3 --json)
    expected=$(printf %s "$predicted" | python3 -c 'import json, sys
classes = json.load(sys.stdin)["predictions"][0]["classes"]
print([{"label": found["name"], "score": found["probability"]} for found in classes], end="")')
    ask 200 "${key[@]}" "$classify" --form "model=$model" --form top_k=3 --form "image=@$image"
    is a "$expected"
    for beginning in "" "data:image/png;base64,"; do
        printf '{"model": "%s", "top_k": 3, "image": "%s%s"}' "$model" "$beginning" "$(base64 -w0 "$image")" >"$work/body"
        ask 200 "${key[@]}" "${json[@]}" "$classify" --data "@$work/body"
        is a "$expected"
    done
done
ask 400 "${key[@]}" "$classify" --form model=lora --form "image=@$0"
is "$error" invalid_image
ask 400 "${key[@]}" "${json[@]}" "$classify" --data '{"model": "lora", "image": "https://example.org/a.png"}'
is "$error" invalid_image
ask 404 "${key[@]}" "$classify" --form model=nobody --form "image=@$image"
is "$error" model_not_found
ok "an image as a form, in base64 and as a data URL"
