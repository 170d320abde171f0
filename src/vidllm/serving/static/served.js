// What the served pages add: upload or camera, progress, chat. Texts from outside are only ever set as textContent.
'use strict';
(() => {
  const $ = id => document.getElementById(id);
  const element = (tag, text, kind = '') => Object.assign(document.createElement(tag), { textContent: text, className: kind });
  async function call(path, options) {
    const answer = await fetch(path, options);
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => null);
    throw new Error(told?.error?.message ?? `the server answered ${answer.status}`);
  }
  const post = (path, body) => call(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body ?? {}) });

  // ---- the start: upload or record, then wait ----------------------------------------------------------------
  function tell(text, kind = '') { $('state').textContent = text; $('state').className = kind; }
  async function wait(id) {
    history.replaceState(null, '', `#${id}`);
    $('progress').hidden = false;
    await post(`/api/scenes/${id}`);
    for (;;) {
      const video = await (await call(`/api/scenes/${id}`)).json();
      if (video.state === 'ready') return location.assign(`/scenes/${id}`);
      if (video.state === 'failed') throw new Error(video.error);
      tell(`${video.name}: ${video.state}${video.done ? `, ${video.done} frames` : ''}`);
      await new Promise(done => setTimeout(done, 400));
    }
  }
  const failing = action => action.catch(error => { tell(error.message, 'error'); $('progress').hidden = true; });
  async function upload(file, name) {
    const form = new FormData();
    form.append('purpose', 'user_data');
    form.append('file', file, name);
    tell(`${name}: sending ${(file.size / 1e6).toFixed(1)} MB`);
    $('progress').hidden = false;
    await wait((await (await call('/v1/files', { method: 'POST', body: form })).json()).id);
  }
  let recorder = null;
  async function record() {
    if (recorder) return recorder.stop();
    if (!navigator.mediaDevices?.getUserMedia) throw new Error('this browser gives no camera here: it needs HTTPS or this machine itself');
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' }, audio: false });
    Object.assign($('live'), { srcObject: stream, hidden: false }).play();
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = event => parts.push(event.data);
    recorder.onstop = () => {
      stream.getTracks().forEach(track => track.stop());
      $('live').hidden = true;
      $('camera').textContent = 'Record with the camera';
      const kind = recorder.mimeType.split(';')[0];
      recorder = null;
      failing(upload(new Blob(parts, { type: kind }), `camera.${kind.split('/')[1] || 'webm'}`));
    };
    recorder.start();
    $('camera').textContent = 'Stop and send';
    tell('recording');
  }
  async function start() {
    $('file').onchange = () => { if ($('file').files[0]) failing(upload($('file').files[0], $('file').files[0].name)); };
    $('camera').onclick = () => failing(record());
    const drop = $('drop');
    drop.ondragover = event => { event.preventDefault(); drop.classList.add('over'); };
    drop.ondragleave = () => drop.classList.remove('over');
    drop.ondrop = event => {
      event.preventDefault();
      drop.classList.remove('over');
      const file = event.dataTransfer.files[0];
      if (file) failing(upload(file, file.name));
    };
    if (location.hash.length > 1) failing(wait(encodeURIComponent(location.hash.slice(1))));
    for (const file of (await (await call('/v1/files')).json()).data) {
      const item = element('li', ''), link = element('a', file.filename);
      link.href = `/scenes/${file.id}`;
      item.append(link, element('span', ` ${file.scene.state}`, 'quiet'));
      $('videos').append(item);
    }
  }

  // ---- the scene: questions and boxes ------------------------------------------------------------------------
  const id = location.pathname.split('/').pop();
  function say(text, kind) {
    const line = element('p', text, kind);
    $('chat').append(line);
    line.scrollIntoView({ block: 'nearest' });
    return line;
  }
  async function ask(question) {
    say(question, 'asked');
    const line = say('…', 'answer');
    const content = [{ type: 'video_url', video_url: { url: id } }, { type: 'text', text: question }];
    const answer = await post('/v1/chat/completions', { model: 'vidllm', stream: true, messages: [{ role: 'user', content }] });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = '', said = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (held + value).split('\n\n');
      held = lines.pop();
      for (const part of lines.map(l => l.slice(6)).filter(l => l !== '[DONE]').map(l => JSON.parse(l))) {
        if (part.error) throw new Error(part.error.message);
        said += part.choices[0]?.delta.content ?? '';
        line.textContent = said || '…';
      }
    }
  }
  async function find(expression) {
    say(expression ?? 'everything', 'asked');
    const found = await (await post(`/api/scenes/${id}/show`, expression === null ? {} : { expression })).json();
    window.vidllm.show(found.boxes);
    document.querySelectorAll('#strip img').forEach((image, n) => { image.src = found.pictures[n]; });
    const names = expression === null ? `: ${found.boxes.map(box => box.label).join(', ')}` : '';
    say(found.boxes.length ? `${found.boxes.length} found${names}` : 'no such object', 'answer');
  }
  function scene() {
    $('asking').onsubmit = event => {
      event.preventDefault();
      const text = $('question').value.trim(), what = event.submitter?.name ?? 'ask';
      if (!text && what !== 'list') return;
      const action = what === 'ask' ? ask(text) : find(what === 'list' ? null : text);
      const buttons = $('asking').querySelectorAll('button');
      buttons.forEach(button => { button.disabled = true; });
      $('question').value = '';
      action.catch(error => say(error.message, 'error')).finally(() => buttons.forEach(button => { button.disabled = false; }));
    };
  }
  if ($('asking')) scene(); else failing(start());
})();
