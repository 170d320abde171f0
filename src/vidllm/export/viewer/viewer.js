// The page of one scene: z is up, lengths are metres. Texts from outside are only ever set as textContent.
'use strict';
(() => {
  const data = JSON.parse(document.getElementById('scene').textContent);
  const $ = id => document.getElementById(id);
  const view = $('view');
  const metres = v => `${v.toFixed(2)} m`;
  const css = c => `rgb(${c.join(',')})`;
  const hex = c => (c[0] << 16) | (c[1] << 8) | c[2];
  const element = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

  // ---- scene -------------------------------------------------------------------------------------------------
  THREE.ColorManagement.enabled = false;
  const renderer = new THREE.WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
  renderer.outputColorSpace = THREE.LinearSRGBColorSpace;
  renderer.localClippingEnabled = true;
  renderer.setClearColor(0x14181f);
  renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
  view.prepend(renderer.domElement);
  const world = new THREE.Scene();
  const eye = new THREE.PerspectiveCamera(55, 1, 0.02, 500);
  eye.up.set(0, 0, 1);
  const controls = new THREE.OrbitControls(eye, renderer.domElement);
  controls.addEventListener('change', draw);

  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const steps = new Uint16Array(bytes(data.points.xyz).buffer);
  const xyz = Float32Array.from(steps, (v, i) => data.points.low[i % 3] + v * data.points.step[i % 3]);
  const cloud = new THREE.BufferGeometry();
  cloud.setAttribute('position', new THREE.BufferAttribute(xyz, 3));
  cloud.setAttribute('color', new THREE.BufferAttribute(bytes(data.points.rgb), 3, true));
  const ceiling = new THREE.Plane(new THREE.Vector3(0, 0, -1), data.cut);
  const points = new THREE.Points(cloud, new THREE.PointsMaterial({ vertexColors: true, clippingPlanes: [ceiling] }));
  world.add(points);
  const grid = new THREE.GridHelper(20, 20, 0x4a5568, 0x2d3542);
  grid.rotation.x = Math.PI / 2;
  grid.position.set(Math.round(data.centre[0]), Math.round(data.centre[1]), data.floor - 0.02);
  world.add(grid);

  const boxes = new THREE.Group();
  function addBox(box, index) {
    const shape = new THREE.BoxGeometry(...box.size);
    const solid = new THREE.Mesh(shape, new THREE.MeshBasicMaterial({ color: hex(box.colour), transparent: true, opacity: 0.06, depthWrite: false }));
    solid.add(new THREE.LineSegments(new THREE.EdgesGeometry(shape), new THREE.LineBasicMaterial({ color: hex(box.colour) })));
    solid.position.set(...box.center);
    solid.rotation.z = box.yaw;
    solid.userData.box = index;
    boxes.add(solid);
    const item = element('li', ''), mark = element('i', '');
    mark.style.background = css(box.colour);
    item.append(mark, element('span', box.label), element('small', box.size.map(v => v.toFixed(2)).join(' x ')));
    item.onclick = () => choose(index);
    $('things').append(item);
    const top = new THREE.Vector3(...box.center).add(new THREE.Vector3(0, 0, box.size[2] / 2));
    tag(box.label, box.colour, top).dataset.box = '';
  }
  world.add(boxes);

  const cameras = new THREE.Group();
  data.cameras.forEach((camera, index) => {
    const corners = camera.pyramid.map(p => new THREE.Vector3(...p));
    const lines = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1].map(i => corners[i]);
    const colour = new THREE.LineBasicMaterial({ color: hex(camera.colour) });
    const frustum = new THREE.LineSegments(new THREE.BufferGeometry().setFromPoints(lines), colour);
    const face = new THREE.BufferGeometry().setFromPoints(corners.slice(1));
    face.setAttribute('uv', new THREE.BufferAttribute(new Float32Array([0, 1, 1, 1, 1, 0, 0, 0]), 2));
    face.setIndex([0, 1, 2, 0, 2, 3]);
    const texture = new THREE.Texture();
    texture.colorSpace = THREE.NoColorSpace;
    const picture = new THREE.Mesh(face, new THREE.MeshBasicMaterial({ map: texture, side: THREE.DoubleSide }));
    picture.userData.camera = index;
    frustum.add(picture);
    cameras.add(frustum);
    const image = Object.assign(new Image(), { src: camera.picture, title: camera.name, alt: camera.name });
    image.onload = () => { texture.image = image; texture.needsUpdate = true; draw(); };
    image.onclick = () => lookThrough(index);
    $('strip').append(image);
  });
  const path = new THREE.BufferGeometry().setFromPoints(data.path.map(p => new THREE.Vector3(...p)));
  cameras.add(new THREE.Line(path, new THREE.LineBasicMaterial({ color: 0xd62839 })));
  world.add(cameras);
  const ruler = new THREE.Group();
  world.add(ruler);

  // ---- drawing -----------------------------------------------------------------------------------------------
  let queued = false;
  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; renderer.render(world, eye); place(); });
  }
  const tags = [];
  function tag(text, colour, at) {
    const span = element('span', text);
    span.style.background = css(colour);
    $('labels').append(span);
    tags.push({ span, at });
    return span;
  }
  function place() { // the nearest first; one that would cover another goes above it
    const taken = [];
    const seen = tags.map(mark => ({ ...mark, p: mark.at.clone().project(eye), mark })).sort((a, b) => a.p.z - b.p.z);
    for (const { span, p, mark } of seen) {
      span.hidden = p.z > 1 || (!boxes.visible && span.dataset.box !== undefined);
      if (span.hidden) continue;
      mark.size ??= [span.offsetWidth, span.offsetHeight];
      const [wide, high] = mark.size, x = (p.x + 1) / 2 * view.clientWidth;
      let y = (1 - p.y) / 2 * view.clientHeight;
      for (const other of taken.sort((a, b) => b.y - a.y))
        if (Math.abs(other.x - x) < (other.wide + wide) / 2 && Math.abs(other.y - y) < high) y = other.y - high;
      taken.push({ x, y, wide });
      span.style.left = `${x}px`;
      span.style.top = `${y}px`;
    }
  }
  const pointSize = () => data.point_size * $('size').value / 3; // metres
  function sizes() { // three.js leaves the angle of view out
    points.material.size = pointSize() * eye.projectionMatrix.elements[5];
    draw();
  }
  function resize() {
    renderer.setSize(view.clientWidth, view.clientHeight);
    eye.aspect = view.clientWidth / view.clientHeight;
    eye.updateProjectionMatrix();
    draw();
  }
  function home() {
    const away = data.radius * 1.5;
    controls.target.set(...data.centre);
    eye.position.set(data.centre[0] - away * 0.75, data.centre[1] - away * 0.35, data.centre[2] + away * 0.8);
    eye.fov = 55;
    eye.updateProjectionMatrix();
    controls.update();
    sizes();
  }

  // ---- choosing and measuring --------------------------------------------------------------------------------
  const state = { ready: false, chosen: null, camera: null, distance: null, points: xyz.length / 3 };
  function choose(index) {
    state.chosen = index;
    [...$('things').children].forEach((item, i) => item.classList.toggle('chosen', i === index));
    boxes.children.forEach((solid, i) => { solid.material.opacity = i === index ? 0.35 : 0.06; });
    const box = data.boxes[index];
    $('thing').textContent = box ? `${box.size.map(v => v.toFixed(2)).join(' x ')} m (length, width, height), centre ` +
      `(${box.center.map(v => v.toFixed(2)).join(', ')})` + (box.score == null ? '' : `, score ${box.score.toFixed(2)}`) : '';
    if (box) $('things').children[index].scrollIntoView({ block: 'nearest' });
    draw();
  }
  let hidden = false;
  const showCameras = () => { cameras.visible = !hidden && $('cameras').getAttribute('aria-pressed') === 'true'; };
  controls.addEventListener('change', () => { if (turning) { hidden = false; showCameras(); } });
  let turning = false;
  controls.addEventListener('start', () => { turning = true; });
  controls.addEventListener('end', () => { turning = false; });
  function lookThrough(index) {
    const { pyramid } = data.cameras[index], apex = new THREE.Vector3(...pyramid[0]);
    const middle = new THREE.Vector3();
    pyramid.slice(1).forEach(p => middle.add(new THREE.Vector3(...p).divideScalar(4)));
    const ahead = middle.clone().sub(apex).normalize();
    eye.position.copy(apex).addScaledVector(ahead, -0.02);
    controls.target.copy(apex).addScaledVector(ahead, data.radius * 0.5);
    const high = new THREE.Vector3(...pyramid[1]).sub(new THREE.Vector3(...pyramid[4])).length() / 2;
    eye.fov = 2 * Math.atan(high / middle.distanceTo(apex)) * 180 / Math.PI * 1.1;
    eye.updateProjectionMatrix();
    state.camera = index;
    [...$('strip').children].forEach((image, i) => image.classList.toggle('chosen', i === index));
    hidden = true; // until the view is turned: the other pictures stand in front of the scene
    showCameras();
    controls.update();
    sizes();
  }
  function ray(event) {
    const area = renderer.domElement.getBoundingClientRect();
    const caster = new THREE.Raycaster();
    caster.params.Points.threshold = pointSize();
    caster.setFromCamera(new THREE.Vector2((event.clientX - area.left) / area.width * 2 - 1, 1 - (event.clientY - area.top) / area.height * 2), eye);
    return caster;
  }
  function show(found) { // these boxes in place of the ones before
    boxes.clear();
    $('things').replaceChildren();
    document.querySelectorAll('#labels [data-box]').forEach(span => span.remove());
    tags.splice(0, tags.length, ...tags.filter(t => t.span.isConnected));
    data.boxes = found;
    found.forEach(addBox);
    if (!found.length) $('things').append(element('li', 'nothing was looked for or found'));
    choose(null);
  }
  let ends = [];
  function measure(caster) {
    // of the points around the ray's first hit, the one that is nearest to the ray
    const hits = caster.intersectObject(points).filter(hit => hit.point.z < ceiling.constant);
    if (!hits.length) return;
    const near = hits.filter(hit => hit.distance < hits[0].distance + 4 * caster.params.Points.threshold);
    const best = near.reduce((a, b) => (b.distanceToRay < a.distanceToRay ? b : a));
    if (ends.length === 2) clear();
    const at = new THREE.Vector3().fromBufferAttribute(cloud.attributes.position, best.index);
    const ball = new THREE.Mesh(new THREE.SphereGeometry(data.radius / 120), new THREE.MeshBasicMaterial({ color: 0xffd60a, depthTest: false }));
    ball.position.copy(at);
    ball.renderOrder = 1;
    ruler.add(ball);
    ends.push(at);
    if (ends.length === 2) {
      const line = new THREE.Line(new THREE.BufferGeometry().setFromPoints(ends), new THREE.LineBasicMaterial({ color: 0xffd60a, depthTest: false }));
      ruler.add(line);
      state.distance = ends[0].distanceTo(ends[1]);
      const spread = data.length_spread;
      const within = spread == null ? '' : ` (${metres(state.distance * (1 - spread))} to ${metres(state.distance * (1 + spread))})`;
      const [x, y, z] = ['x', 'y', 'z'].map(axis => Math.abs(ends[0][axis] - ends[1][axis]));
      $('measured').textContent = `${metres(state.distance)}${within}; level ${metres(Math.hypot(x, y))}, in height ${metres(z)}`;
      tag(metres(state.distance), [255, 214, 10], ends[0].clone().add(ends[1]).multiplyScalar(0.5)).dataset.ruler = '';
    } else {
      $('measured').textContent = 'Click a second point.';
    }
    draw();
  }
  function clear() {
    ends = [];
    ruler.clear();
    document.querySelectorAll('[data-ruler]').forEach(span => span.remove());
    tags.splice(0, tags.length, ...tags.filter(t => t.span.isConnected));
    state.distance = null;
    $('measured').textContent = 'Press Measure, then click two points.';
    draw();
  }
  function pick(event) {
    const caster = ray(event);
    if ($('measure').getAttribute('aria-pressed') === 'true') return measure(caster);
    const pictures = cameras.visible ? caster.intersectObjects(cameras.children, true).filter(hit => hit.object.userData.camera !== undefined) : [];
    if (pictures.length) return lookThrough(pictures[0].object.userData.camera);
    // of the boxes on the ray the smallest: large ones hide what stands in them
    const volume = hit => data.boxes[hit.object.userData.box].size.reduce((a, b) => a * b);
    const hits = boxes.visible ? caster.intersectObjects(boxes.children, false) : [];
    choose(hits.length ? hits.reduce((a, b) => (volume(b) < volume(a) ? b : a)).object.userData.box : null);
  }
  let pressed = null;
  renderer.domElement.addEventListener('pointerdown', event => { pressed = [event.clientX, event.clientY]; });
  renderer.domElement.addEventListener('pointerup', event => {
    if (pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) < 4) pick(event);
    pressed = null;
  });

  // ---- the page around it ------------------------------------------------------------------------------------
  const hint = 'Drag to turn, right button to move, wheel to come nearer; click a box, or a camera to look through it';
  document.title = data.title;
  $('title').textContent = data.title;
  $('summary').textContent = data.summary;
  data.warnings.forEach(text => $('warnings').append(Object.assign(element('p', text), { className: 'warning' })));
  $('hint').textContent = hint;
  if (data.transcript.length) {
    const list = element('dl', '');
    data.transcript.forEach(([question, answer]) => list.append(element('dt', question), element('dd', answer)));
    $('transcript').append(element('h2', 'Questions'), list);
  }
  const toggle = (id, then) => {
    $(id).onclick = () => {
      const on = $(id).getAttribute('aria-pressed') !== 'true';
      $(id).setAttribute('aria-pressed', on);
      then(on);
      draw();
    };
  };
  toggle('measure', on => { view.classList.toggle('measuring', on); $('hint').textContent = on ? 'Click two points' : hint; if (!on) clear(); });
  toggle('boxes', on => { boxes.visible = on; });
  toggle('cameras', () => { hidden = false; showCameras(); });
  $('home').onclick = () => { hidden = false; showCameras(); home(); };
  $('size').value = 3;
  $('size').oninput = sizes;
  Object.assign($('cut'), { min: data.floor, max: data.top, value: data.cut });
  $('cut').oninput = () => { ceiling.constant = +$('cut').value; draw(); };
  addEventListener('keydown', event => { if (event.key === 'm') $('measure').click(); if (event.key === 'Escape') clear(); });
  addEventListener('resize', resize);
  show(data.boxes);
  clear();
  resize();
  home();
  window.vidllm = Object.assign(state, { show });
  requestAnimationFrame(() => { state.ready = true; });
})();
