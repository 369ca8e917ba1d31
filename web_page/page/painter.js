/**
 * The photo under another light, by WebGL 2: linear light times the ratio that the lines of each face say. What gets too
 * bright approaches white, and colours stay within what sRGB can show. See dpr_jax.portrait.compositing and .edits.
 */

import { betweenCentres, inverse, moved } from "./pictures.js";
import { WITHIN } from "./ratio.js";

/** Faces that follow the light at a time. */
export const MOST_FACES = 4;

const VERTEX = `#version 300 es
void main() {
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler2D photo;
uniform highp sampler2D slopes; // of each face below the other: a of red, green and blue; how much it counts
uniform highp sampler2D offsets; // b of red, green and blue
uniform int count;
uniform int size;
uniform mat3 matrices[${MOST_FACES}]; // pixels of the photo -> pixels of the square
uniform vec2 place; // of the first pixel of the picture in the photo
uniform float scale; // pixels of the photo to a pixel of the picture
out vec4 colour;

const vec3 WEIGHTS = vec3(0.2126, 0.7152, 0.0722);
const float KNEE = 0.008856452, SHOULDER = 0.75, LEAST = 1e-9;

vec3 linearised(vec3 srgb) {
  return mix(srgb / 12.92, pow((max(srgb, 0.04045) + 0.055) / 1.055, vec3(2.4)), greaterThan(srgb, vec3(0.04045)));
}

vec3 encoded(vec3 linear) {
  vec3 curved = 1.055 * pow(max(linear, 0.0031308), vec3(1.0 / 2.4)) - 0.055;
  return mix(linear * 12.92, curved, greaterThan(linear, vec3(0.0031308)));
}

float lightness(float y) {
  return 1.16 * (y > KNEE ? pow(y, 1.0 / 3.0) : y * 7.787037 + 0.13793103) - 0.16;
}

float compressed(float before, float after) {
  float room = 1.0 - SHOULDER;
  float soft = 1.0 - room * exp(-(max(after, SHOULDER) - SHOULDER) / room);
  return after > SHOULDER && after > before ? max(soft, before) : after;
}

vec4 at(sampler2D maps, ivec2 cell, int face) {
  if (any(lessThan(cell, ivec2(0))) || any(greaterThanEqual(cell, ivec2(size)))) return vec4(0.0);
  return texelFetch(maps, cell + ivec2(0, face * size), 0);
}

vec4 between(sampler2D maps, vec2 where_, int face) {
  ivec2 cell = ivec2(floor(where_));
  vec2 share = where_ - floor(where_);
  vec4 upper = mix(at(maps, cell, face), at(maps, cell + ivec2(1, 0), face), share.x);
  vec4 lower = mix(at(maps, cell + ivec2(0, 1), face), at(maps, cell + ivec2(1, 1), face), share.x);
  return mix(upper, lower, share.y);
}

float strongest(vec3 rgb) {
  return max(rgb.r, max(rgb.g, rgb.b));
}

void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  pixel.y = textureSize(photo, 0).y - 1 - pixel.y; // the first row is the upper one
  vec3 old = texelFetch(photo, pixel, 0).rgb;
  colour = vec4(old, 1.0);
  vec3 linear = linearised(old);
  float y = dot(linear, WEIGHTS), l = lightness(y);
  vec2 there = place + (vec2(pixel) + 0.5) * scale - 0.5;
  vec3 ratio = vec3(0.0);
  float total = 0.0;
  for (int face = 0; face < count; face++) {
    vec2 inside = (matrices[face] * vec3(there, 1.0)).xy;
    if (any(lessThan(inside, vec2(-1.0))) || any(greaterThan(inside, vec2(size)))) continue;
    vec4 slope = between(slopes, inside, face);
    vec3 offset = between(offsets, inside, face).rgb;
    ratio += slope.a * clamp(slope.rgb * l + offset, ${WITHIN[0]}, ${WITHIN[1]});
    total += slope.a;
  }
  if (total == 0.0) return;
  ratio /= max(total, 1e-6);
  float share = min(total, 1.0); // a pixel that shows a person in part changes by that part of its light
  vec3 relit = linear * (1.0 + share * (exp(ratio) - 1.0));
  float after = dot(relit, WEIGHTS), wanted = compressed(y, after);
  float most = compressed(strongest(linear), strongest(relit));
  relit *= wanted / max(after, LEAST);
  float kept = min((most - wanted) / max(strongest(relit) - wanted, LEAST), 1.0);
  colour = vec4(encoded(clamp(wanted + kept * (relit - wanted), 0.0, 1.0)), 1.0);
}`;

export class Painter {
  /**
   * @param {HTMLCanvasElement} canvas to paint on, which nothing else has painted on.
   * @throws {Error} where the browser has no WebGL 2.
   */
  constructor(canvas) {
    this.canvas = canvas;
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser has no WebGL 2, which paints the light");
    this.gl = gl;
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.#restore());
    this.#start();
  }

  #start() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) { // prettier-ignore
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      throw new Error(`the light cannot be painted here: ${gl.getProgramInfoLog(program)}`);
    }
    gl.useProgram(program);
    this.uniforms = Object.fromEntries(
      ["photo", "slopes", "offsets", "count", "size", "matrices", "place", "scale"].map((name) => [
        name,
        gl.getUniformLocation(program, name),
      ]),
    );
    ["photo", "slopes", "offsets"].forEach((name, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
        gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
      }
      for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, wrap, gl.CLAMP_TO_EDGE);
      gl.uniform1i(this.uniforms[name], unit);
    });
  }

  #restore() {
    this.#start();
    if (this.photo) this.setPhoto(...this.photo);
    if (this.faces) this.setFaces(this.faces);
    if (this.lines) this.setLines(this.lines);
    this.draw();
  }

  /**
   * The pixels to paint, all of the photo made smaller or a part of it.
   *
   * @param {ImageData} pixels sRGB.
   * @param {number} left where they begin in the photo, in its pixels.
   * @param {number} top likewise.
   * @param {number} scale pixels of the photo to one of them.
   */
  setPhoto(pixels, left = 0, top = 0, scale = 1) {
    const { gl, uniforms, canvas } = this;
    this.photo = [pixels, left, top, scale];
    this.fresh = true;
    if (canvas.width !== pixels.width || canvas.height !== pixels.height) {
      [canvas.width, canvas.height] = [pixels.width, pixels.height];
    }
    gl.viewport(0, 0, pixels.width, pixels.height);
    gl.activeTexture(gl.TEXTURE0);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, pixels.width, pixels.height, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixels.data);
    gl.uniform2f(uniforms.place, left, top);
    gl.uniform1f(uniforms.scale, scale);
  }

  /** The faces that follow the light: of each `framing` and `weight`, see `headWeight`; at most `MOST_FACES`. */
  setFaces(faces) {
    const { gl, uniforms } = this;
    this.faces = faces;
    const matrices = faces.map(({ framing }) => {
      const [a, b, c, d, e, f] = betweenCentres(framing.matrix);
      return [a, d, 0, b, e, 0, c, f, 1]; // column by column
    });
    if (!faces.length) return;
    const { size } = faces[0].framing;
    gl.uniformMatrix3fv(uniforms.matrices, false, matrices.flat());
    gl.uniform1i(uniforms.size, size);
    this.maps = [0, 1].map((map) => {
      gl.activeTexture(gl.TEXTURE1 + map);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, size, size * faces.length, 0, gl.RGBA, gl.FLOAT, null);
      return new Float32Array(4 * size * size);
    });
  }

  /** The lines of each face, from `FaceRatio.lines`, for one channel or three. */
  setLines(lines) {
    const { gl, faces, maps } = this;
    this.lines = lines;
    lines.forEach((channels, face) => {
      const { weight, framing } = faces[face];
      const [red, green, blue] = channels.length === 1 ? [channels[0], channels[0], channels[0]] : channels;
      const [slopes, offsets] = maps;
      for (let k = 0, to = 0; k < weight.length; k++, to += 4) {
        [slopes[to], slopes[to + 1], slopes[to + 2], slopes[to + 3]] = [red.a[k], green.a[k], blue.a[k], weight[k]];
        [offsets[to], offsets[to + 1], offsets[to + 2]] = [red.b[k], green.b[k], blue.b[k]];
      }
      maps.forEach((map, unit) => {
        gl.activeTexture(gl.TEXTURE1 + unit);
        const { size } = framing;
        gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, face * size, size, size, gl.RGBA, gl.FLOAT, map);
      });
    });
  }

  /** Paints; `lit` false: the photo as it was. After the first time only where faces are: nothing else changes. */
  draw(lit = true) {
    const { gl } = this;
    if (this.fresh) gl.disable(gl.SCISSOR_TEST);
    else {
      gl.enable(gl.SCISSOR_TEST);
      gl.scissor(...this.#reach());
    }
    this.fresh = false;
    gl.uniform1i(this.uniforms.count, lit ? this.faces.length : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Left, bottom, width and height of what the faces' squares reach, in pixels of the canvas. */
  #reach() {
    const { width, height } = this.canvas;
    const [, left, top, scale] = this.photo;
    const corners = this.faces.flatMap(({ framing: { matrix, size } }) => {
      const back = inverse(matrix);
      return [[-1, -1], [size + 1, -1], [-1, size + 1], [size + 1, size + 1]].map(([x, y]) => moved(back, x, y)); // prettier-ignore
    });
    const [xs, ys] = [corners.map(([x]) => (x - left) / scale), corners.map(([, y]) => (y - top) / scale)];
    const [low, high] = [Math.max(Math.floor(Math.min(...xs)), 0), Math.min(Math.ceil(Math.max(...xs)), width)];
    const [upper, lower] = [Math.max(Math.floor(Math.min(...ys)), 0), Math.min(Math.ceil(Math.max(...ys)), height)];
    return [low, height - lower, Math.max(high - low, 0), Math.max(lower - upper, 0)];
  }

  /** What was drawn, from the upper row down. */
  read() {
    const { gl, canvas } = this;
    this.draw();
    const { width, height } = canvas;
    const upwards = new Uint8Array(4 * width * height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, upwards);
    const pixels = new ImageData(width, height);
    for (let row = 0; row < height; row++) {
      pixels.data.set(upwards.subarray(4 * width * row, 4 * width * (row + 1)), 4 * width * (height - 1 - row));
    }
    return pixels;
  }

  /** Frees what the graphics card holds. */
  close() {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
