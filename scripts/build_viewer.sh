#!/bin/sh
# Bundle the parts of three.js that the page in one file uses (src/vidllm/export/viewer/three.min.js, with its licence).
# Needs node and npm. Run again only to take a newer three.js; the result is committed.
set -eu
THREE=0.187.0 ESBUILD=0.28.2
viewer=$(cd "$(dirname "$0")/../src/vidllm/export/viewer" && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cd "$build"
npm install --silent --no-save "three@$THREE" "esbuild@$ESBUILD"
cat > entry.js <<'END'
export {
  BoxGeometry, BufferAttribute, BufferGeometry, ColorManagement, DoubleSide, EdgesGeometry, GridHelper, Group, Line,
  LineBasicMaterial, LineSegments, LinearSRGBColorSpace, Matrix4, Mesh, MeshBasicMaterial, NoColorSpace, PerspectiveCamera, Plane,
  Points, PointsMaterial, Raycaster, Scene, SphereGeometry, Texture, Vector2, Vector3, WebGLRenderer,
} from 'three';
export { OrbitControls } from 'three/examples/jsm/controls/OrbitControls.js';
END
npx esbuild entry.js --bundle --minify --format=iife --global-name=THREE --target=es2020 --legal-comments=inline \
  --banner:js="/* three.js $THREE, MIT licence (three.LICENSE); bundled by scripts/build_viewer.sh */" \
  --outfile="$viewer/three.min.js"
cp node_modules/three/LICENSE "$viewer/three.LICENSE"
